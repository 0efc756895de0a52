"""A linear bound of what a picture will lose, from a few numbers that it shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Bound:
    """Linear in the numbers over their deviations.

    Attributes:
        center, spread: mean and deviation of each number.
        level: mean of the outcome.
        weights: of each number.
        margin: what is added, so that the wanted share of the outcomes lies below.
    """

    center: NDArray[np.float64]
    spread: NDArray[np.float64]
    level: float
    weights: NDArray[np.float64]
    margin: float


def upper(x: NDArray[np.float64], y: NDArray[np.float64], ridge: float, share: float) -> Bound:
    """An upper bound of an outcome by ridge regression, raised by a quantile of what it misses cases by, each of them
    left out of the fit in turn (split conformal prediction with the leave-one-out residuals of a linear smoother).

    Args:
        x: (n, d), the numbers of n cases.
        y: (n,), the outcome.
        ridge: penalty of the squared weights, in cases.
        share: of the cases that the margin covers.
    """
    center, spread = x.mean(0), x.std(0).clip(min=1e-6)
    z, level = (x - center) / spread, float(y.mean())
    inverse = np.linalg.inv(z.T @ z + ridge * np.eye(z.shape[1]))
    weights = inverse @ z.T @ (y - level)
    leverage = np.einsum("ni,ij,nj->n", z, inverse, z) + 1 / len(z)
    missed = np.sort((y - level - z @ weights) / (1 - leverage).clip(min=1e-3))
    margin = float(missed[min(math.ceil(share * (len(y) + 1)), len(y)) - 1])
    return Bound(center, spread, level, weights, margin)
