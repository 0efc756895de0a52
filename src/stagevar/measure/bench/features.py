"""Pictures as a few numbers each, how far two sets of them are apart, and how different pictures of one caption are.

The self-Frechet distance is that of these numbers between an accelerated and a plain run of one model, and no FID: it
needs no network, and compares a model with itself alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.measure.likeness.fidelity import band_energy

Numbers = npt.NDArray[np.float64]
Features = Sequence[Sequence[float]]


def features(pictures: Tensor) -> list[list[float]]:
    """Of pictures (n, 3, h, w) in [0, 1], 22 numbers each: mean and deviation of the colours, the colours of the
    quarters, and the logarithm of the energy of four octaves."""
    x = pictures.double()
    quarters = F.adaptive_avg_pool2d(x, 2).flatten(1)
    energy = (band_energy(pictures) + 1e-6).log()
    found = torch.cat([x.mean((2, 3)), x.std((2, 3)), quarters, energy], 1)
    return [[round(value, 5) for value in row] for row in found.tolist()]


def self_frechet(own: Features, plain: Features) -> float | None:
    """Frechet distance of the features of two sets, each number over its deviation in the plain run; None of fewer than
    two pictures. Sets of few pictures are compared with each other only, as it falls with their number."""
    if len(own) < 2:
        return None
    a, b = _scaled(own, plain), _scaled(plain, plain)
    one, other = (np.cov(x, rowvar=False) for x in (a, b))
    values = np.linalg.eigvals(one @ other).real.clip(min=0)
    apart = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    return max(0.0, apart + float(np.trace(one) + np.trace(other)) - 2 * float(np.sqrt(values).sum()))


def diversity(captions: Sequence[str], own: Features, plain: Features) -> float | None:
    """Mean distance of the features of two pictures of one caption; None if every caption has one picture."""
    scaled = _scaled(own, plain)
    pairs = [(i, j) for i, j in combinations(range(len(captions)), 2) if captions[i] == captions[j]]
    return fmean(float(np.linalg.norm(scaled[i] - scaled[j])) for i, j in pairs) if pairs else None


def _scaled(values: Features, plain: Features) -> Numbers:
    spread: Numbers = np.asarray(plain, dtype=float).std(0).clip(min=1e-6)
    found: Numbers = np.asarray(values, dtype=float) / spread
    return found
