"""What a picture shows half way, and what that foretells of each quality of ``stagevar``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from stagevar.engine.grids.latent import contrast
from stagevar.engine.plan.signals import bands, support
from stagevar.engine.plan.watch import Numbers, Seen, Watch
from stagevar.regression import upper

QUALITIES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
"""What a target chooses among."""

REACHED = 0.9
"""Share of the fitted pictures that the margin of a forecast covers."""

RIDGE, FLOOR = 1.0, 1e-4
"""Penalty of the forecast's squared weights, of numbers over their deviations; the least loss that is told apart."""


@dataclass(frozen=True, slots=True)
class Foreseen(Watch):
    """What a picture shows half way, and what that foretells of each quality. The numbers are logarithms: of the shares
    of positions that hold the latent's contrast (``Signals.support``), and of the bands' changes.

    Attributes:
        bounds: of each quality in ``QUALITIES``, a constant and the weights of the numbers. Their sum is the logarithm
            of the SSIM that is lost at most.
    """

    place = "picture"
    ends: ClassVar[tuple[Numbers, Numbers]] = (0.0,) * 9 + (4.6,) * 3, (-6.9,) * 9 + (-9.2,) * 3
    typical: ClassVar[tuple[Numbers, ...]] = (
        (0.375, -2.21, -1.51, -1.24, -1.05, -0.87, -0.73, -0.62, -0.46, -0.36, -2.30, -0.54, -0.45),
        (0.500, -2.41, -1.66, -1.43, -1.24, -1.05, -0.89, -0.78, -0.62, -0.49, -2.66, -0.71, -0.56),
        (0.750, -2.41, -1.77, -1.51, -1.31, -1.11, -0.99, -0.84, -0.69, -0.56, -3.00, -1.83, -0.87),
    )
    bounds: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    def numbers(self, seen: Seen) -> Tensor:
        shown = torch.cat([support(contrast(seen.latent)), bands(seen.change, seen.latent)], 1)
        return shown.clamp(min=1e-4).log()

    def quality(self, numbers: Numbers, target: float) -> float:
        """The fastest quality that keeps the target; 1, the plain run, if none does."""
        lost = (
            constant + sum(w * x for w, x in zip(weights, numbers, strict=True)) for constant, *weights in self.bounds
        )
        kept = (quality for quality, each in zip(QUALITIES, lost, strict=True) if each <= math.log(1 - target))
        return next(kept, 1.0)

    @classmethod
    def read(cls, rows: Iterable[Iterable[float]]) -> Foreseen:
        """Bounds as a file has them, checked.

        Raises:
            TypeError, ValueError: they are no numbers, or too few or too many.
        """
        bounds = tuple(tuple(map(float, row)) for row in rows)
        if [len(row) for row in bounds] != [len(cls.ends[0]) + 1] * len(QUALITIES):
            raise ValueError(f"it has not the numbers of {len(QUALITIES)} qualities")
        if not all(math.isfinite(number) for row in bounds for number in row):
            raise ValueError("its bounds are no numbers")
        return cls(bounds=bounds)


def fitted(seen: Tensor, alike: Tensor) -> list[list[float]]:
    """The bounds of each quality, of n pictures.

    Args:
        seen: (n, numbers).
        alike: (qualities, n), SSIM to the plain picture.
    """
    return [bound(seen.double(), (1 - each).clamp(min=FLOOR).log().double()) for each in alike]


def bound(x: Tensor, y: Tensor) -> list[float]:
    """An upper bound of y (n,) that is linear in x (n, d): its constant, then its weights."""
    found = upper(x.numpy(), y.numpy(), RIDGE, REACHED)
    slope = found.weights / found.spread
    constant = found.level + found.margin - float(slope @ found.center)
    return [round(value, 4) for value in (constant, *slope.tolist())]
