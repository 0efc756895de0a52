"""Small replacements for the large parts of a family: untrained text encoders, small grids, a small tokenizer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Schedule
from stagevar.errors import PromptError
from stagevar.families.tokenizers.vq import VQConfig
from stagevar.families.vq_model import squares


class WordHash:
    """An untrained text encoder: each word gets a random vector that depends on the word alone.

    With ``summary`` channels its output has CLIP's layout: every prompt, even the empty one, has a start row, an end
    row and a summary vector.
    """

    def __init__(self, channels: int, limit: int, summary: int = 0) -> None:
        self.channels, self.limit, self.summary = channels, limit, summary

    def __call__(self, prompts: Sequence[str]) -> Text:
        """The states of each prompt, (words, channels).

        Raises:
            PromptError: a prompt has no words, or more than ``limit``.
        """
        features = []
        for prompt in prompts:
            words = ["<start>", *prompt.lower().split(), "<end>"] if self.summary else prompt.lower().split()
            if not 0 < len(words) <= self.limit:
                raise PromptError(f"the prompt has {len(words)} words; a tiny model takes 1 to {self.limit}")
            features.append(torch.stack([self._vector(word, self.channels) for word in words]))
        pooled = [self._vector(f"summary of {prompt}", self.summary) for prompt in prompts]
        return Text(tuple(features), torch.stack(pooled) if self.summary else None)

    @staticmethod
    def _vector(word: str, channels: int) -> torch.Tensor:
        return torch.randn(channels, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


class PaddedWords(WordHash):
    """A ``WordHash`` that pads as tokenizers of language models do: every prompt has ``limit`` states, and the states
    behind its words are padding."""

    def __call__(self, prompts: Sequence[str]) -> Text:
        features, masks, padding = [], [], self._vector("<pad>", self.channels)
        for states in super().__call__(prompts).features:
            features.append(torch.cat([states, padding.expand(self.limit - len(states), -1)]))
            masks.append(torch.arange(self.limit) < len(states))
        return Text(tuple(features), masks=tuple(masks))


SCHEDULES: tuple[Schedule, ...] = (
    squares(1, 2, 3, 4, 6, 8),
    ((1, 1), (2, 1), (3, 2), (5, 3), (6, 4), (9, 6)),
    ((1, 1), (1, 2), (2, 3), (3, 5), (4, 8), (6, 12)),
)
"""Grids of square, 3:2 and 1:2 pictures, for tiny networks of the families that use the VQ tokenizer."""

VQ = VQConfig(base=32, multipliers=(1, 2), residual_blocks=1, channels=8, codes=64)
"""Tokenizer of these tiny networks."""


def noise_text(model: ScaleModel, length: int) -> Callable[[Sequence[str]], Text]:
    """A text encoder that gives every prompt the same random text, in the shape of the model's ``blank_text``."""
    blank = model.blank_text(length)
    features = tuple(torch.randn(states.shape) for states in blank.features)
    pooled = None if blank.pooled is None else torch.randn(blank.pooled.shape)

    def encode(prompts: Sequence[str]) -> Text:
        n = len(prompts)
        masks = None if blank.masks is None else blank.masks * n
        return Text(features * n, None if pooled is None else pooled.repeat(n, 1), masks)

    return encode
