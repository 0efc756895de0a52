"""The network that reads pictures of the world of photographs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.photos.captions import OBJECTS, PLACES

NOTHING, OTHER = 0, len(OBJECTS) + 1
"""Classes of a cell without an object, and of one whose object is none of ``OBJECTS`` (1 to 60)."""
CELL = 4
"""Pixels of a cell's side."""


class Reader(nn.Module):
    """Classes of 4x4 cells, and the place, of pictures whose sides are multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(_Step(3, 32, stride=2), _Step(32, 64, stride=2), _Step(64, 64))
        self.coarse = nn.Sequential(_Step(64, 96, stride=2), _Step(96, 96), _Step(96, 96))
        self.narrow = nn.Conv2d(96, 64, 1)
        self.joined = _Step(64, 96)
        self.classes = nn.Conv2d(96, OTHER + 1, 1)
        self.places = nn.Linear(96, len(PLACES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (n, 3, h, w) in [0, 1] to logits of classes (n, 62, h / 4, w / 4) and of places (n, 20)."""
        fine = self.fine(pictures * 2 - 1)
        coarse = self.coarse(fine)
        joined = self.joined(fine + F.interpolate(self.narrow(coarse), scale_factor=2.0, mode="nearest"))
        return self.classes(joined), self.places(coarse.mean((2, 3)))


class _Step(nn.Sequential):
    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.GroupNorm(outside // 16, outside), nn.ReLU()
        )
