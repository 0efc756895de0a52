"""Codes that are given instead of drawn: which count where rows were drawn too, and which where none ran."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.grids.sent import sent


@dataclass(frozen=True, slots=True)
class Codes:
    """Codes of one scale, as ``ScaleModel.add_codes`` takes them.

    Attributes:
        values: int64 (n, r) or (n, r, d), or weights over the codes, float (n, r, V).
        index: (n, r) positions of the codes, None for all M.
        gain: how much each token counts, (n, r), None for all alike.
    """

    values: Tensor
    index: Tensor | None = None
    gain: Tensor | None = None

    def spread(self, tokens: int) -> Tensor:
        """The code of every position, int64 (n, M) or (n, M, d): of weights the likeliest, -1 where there is none."""
        values = self.values.argmax(-1) if self.values.is_floating_point() else self.values
        if self.index is None:
            return values if self.gain is None else values.masked_fill(_beside(self.gain == 0, values), -1)
        n, _, *each = values.shape
        return values.new_full((n, tokens, *each), -1).scatter(1, _beside(self.index, values), values)


@dataclass(frozen=True, slots=True)
class Known:
    """Given codes of one scale.

    Attributes:
        values: int64 (n, M) or (n, M, d), -1 where a code is drawn.
        whole: whether nothing is drawn.
    """

    values: Tensor
    whole: bool

    @classmethod
    def of(cls, host: Tensor, device: torch.device) -> Known:
        """Codes of the host, put on the device."""
        return cls(sent(host, device), bool((host >= 0).all()))

    @property
    def fixed(self) -> Tensor:
        """Whether all codes of a token are given, (n, M)."""
        return (self.values if self.values.dim() == 2 else self.values.amin(-1)) >= 0

    def at(self, index: Tensor | None) -> Tensor:
        """The codes of the rows that ran."""
        if index is None:
            return self.values
        return torch.stack([each[rows] for each, rows in zip(self.values, index, strict=True)])

    def completed(self, codes: Codes) -> Codes:
        """Codes of the rows that ran, and the given ones wherever none ran. Those given count in full."""
        sure, index = self.fixed, codes.index
        if index is None:
            return codes if codes.gain is None else replace(codes, gain=codes.gain.masked_fill(sure, 1.0))
        gain = torch.ones(index.shape, device=index.device) if codes.gain is None else codes.gain
        gain = sure.float().scatter(1, index, gain).masked_fill(sure, 1.0)
        rest = _like(self.values.clamp(min=0), codes.values)
        return Codes(rest.scatter(1, _beside(index, codes.values), codes.values), None, gain)

    @property
    def alone(self) -> Codes:
        """The codes of a scale of which no row ran: the positions that are drawn add nothing."""
        return Codes(self.values.clamp(min=0), None, None if self.whole else self.fixed.float())


def filled(drawn: Tensor, known: Tensor) -> Tensor:
    """Drawn codes (n, r) or (n, r, d), or weights over codes (n, r, V), with the given ones in their place."""
    given = known >= 0
    if drawn.is_floating_point():
        return torch.where(given[..., None], _like(known.clamp(min=0), drawn), drawn)
    return torch.where(given, known, drawn)


def _like(codes: Tensor, values: Tensor) -> Tensor:
    """Codes as weights, if the values are weights."""
    return F.one_hot(codes, values.shape[-1]).to(values.dtype) if values.is_floating_point() else codes


def _beside(index_nr: Tensor, values: Tensor) -> Tensor:
    """One entry per token as one per code of the token."""
    return index_nr if values.dim() == 2 else index_nr[..., None].expand(-1, -1, values.shape[-1])
