"""Fit a choice per picture: the SSIM of every found plan as a linear function of the picture's signals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stagevar.plans import Chooser
from stagevar.regression import upper

RIDGE = 4.0
"""Weight of the squared weights, in pictures: signals are few and alike, and so are captions."""

CERTAIN = 0.9
"""Share of the pictures that reach what is expected of them."""


def chooser(share: float, numbers: Sequence[Sequence[float]], alike: Sequence[Sequence[float]]) -> Chooser:
    """Ridge regression, with a margin from the errors of pictures that were left out one at a time.

    Args:
        share: side, relative to the final one, of the scale behind which the numbers were read.
        numbers: per picture.
        alike: per plan the SSIM of each picture.
    """
    x = np.asarray(numbers, dtype=float)
    bounds = [upper(x, -np.asarray(own, dtype=float), RIDGE, CERTAIN) for own in alike]
    return Chooser(
        share,
        tuple(bounds[0].center.tolist()),
        tuple(bounds[0].spread.tolist()),
        tuple((-each.level, *(-each.weights).tolist()) for each in bounds),
        tuple(each.margin for each in bounds),
    )
