"""A gain and a bias per channel: they bring what a part added at one scale nearer to what it adds at another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Self

import torch
from torch import Tensor

from stagevar.errors import OptionError


@dataclass(frozen=True, slots=True)
class Channels:
    """Numbers of consecutive blocks, the network's first one first.

    Attributes:
        digest: of the numbers, by which two of these are told apart.
        gains, biases: (blocks, C), float32.
    """

    digest: str
    gains: Tensor = field(compare=False, repr=False)
    biases: Tensor = field(compare=False, repr=False)

    @classmethod
    def of(cls, gains: Sequence[Sequence[float]], biases: Sequence[Sequence[float]]) -> Self:
        """Numbers as a file has them.

        Raises:
            TypeError, ValueError: they are no numbers, or not as many gains as biases.
        """
        pair = [torch.tensor(each, dtype=torch.float32) for each in (gains, biases)]
        if pair[0].dim() != 2 or not pair[0].numel() or pair[0].shape != pair[1].shape:
            raise ValueError("it has not a gain and a bias per block and channel")
        if not all(bool(each.isfinite().all()) for each in pair):
            raise ValueError("a gain or a bias is not finite")
        return cls(sha256(torch.stack(pair).numpy().tobytes()).hexdigest()[:16], *pair)

    def __call__(self, rows_RrC: Tensor, block: int) -> Tensor:
        """``gain * rows + bias`` with the numbers of a block.

        Raises:
            OptionError: the network has another number of channels.
        """
        if rows_RrC.shape[2] != self.gains.shape[1]:
            raise OptionError(
                f"fitted for {self.gains.shape[1]} channels, and the model has {rows_RrC.shape[2]}; fit it again"
            )
        gain, bias = _placed(self, block, rows_RrC.device, rows_RrC.dtype)
        return torch.addcmul(bias, rows_RrC, gain)


@lru_cache(maxsize=256)
def _placed(channels: Channels, block: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The numbers of a block where they are used."""
    return channels.gains[block].to(device, dtype), channels.biases[block].to(device, dtype)
