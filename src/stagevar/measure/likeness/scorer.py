"""Likeness of two pictures as a learned network sees it: the form of a scorer."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Scorer(Protocol):
    """``(pictures, references) -> (n,)``: how alike pictures (n, 3, h, w) in [0, 1] are, 1 for equal ones.

    Higher is more alike; an adaptor of a distance such as LPIPS returns one minus it.
    """

    def __call__(self, pictures: Tensor, references: Tensor) -> Tensor: ...
