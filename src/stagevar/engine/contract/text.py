"""What a text encoder yields, as models and pipeline pass it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Text:
    """Encoded prompts, one entry per image.

    Attributes:
        features: per image (T_i, C) states of a text encoder, or (T_i,) int64 word or class indices.
        pooled: (n, C) summary vectors where the encoder yields them.
        masks: per image (T_i,) bool, False where a state is padding that the network reads nevertheless; None if
            there is none.
    """

    features: tuple[Tensor, ...]
    pooled: Tensor | None = None
    masks: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.features)

    def one(self, image: int) -> Text:
        """The entry of one image."""
        pooled = None if self.pooled is None else self.pooled[image : image + 1]
        return Text((self.features[image],), pooled, None if self.masks is None else (self.masks[image],))

    @staticmethod
    def joined(texts: Sequence[Text]) -> Text:
        """The entries of all, in order; they come from the same encoder."""
        pooled = [text.pooled for text in texts if text.pooled is not None]
        masks = [mask for text in texts for mask in text.masks or ()]
        features = tuple(states for text in texts for states in text.features)
        return Text(features, torch.cat(pooled) if pooled else None, tuple(masks) or None)

    def spread(self, positions: Sequence[int], count: int) -> Text:
        """``count`` entries: these at the given positions, the others empty."""

        def placed(entries: Sequence[Tensor]) -> tuple[Tensor, ...]:
            spread = [entries[0].new_empty(0)] * count
            for position, entry in zip(positions, entries, strict=True):
                spread[position] = entry
            return tuple(spread)

        pooled = None
        if self.pooled is not None:
            pooled = self.pooled.new_zeros(count, self.pooled.shape[-1])
            pooled[list(positions)] = self.pooled
        return Text(placed(self.features), pooled, None if self.masks is None else placed(self.masks))

    def filled(self, null: Text) -> Text:
        """The same with the first entry of ``null`` in the place of empty ones."""
        empty = [not len(states) for states in self.features]

        def chosen(entries: Sequence[Tensor], nulls: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(nulls[0] if e else entry for e, entry in zip(empty, entries, strict=True))

        pooled = masks = None
        if self.pooled is not None and null.pooled is not None:
            pooled = torch.stack(chosen(self.pooled.unbind(), null.pooled.to(self.pooled).unbind()))
        if self.masks is not None and null.masks is not None:
            masks = chosen(self.masks, null.masks)
        return Text(chosen(self.features, null.features), pooled, masks)
