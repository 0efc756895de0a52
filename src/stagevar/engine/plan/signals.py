"""Cheap numbers measured inside the loop after a scale, for accelerators that decide per image."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from stagevar.engine.grids.latent import contrast, resize
from stagevar.engine.grids.sent import sent
from stagevar.engine.plan.watch import Numbers, Watch

SUPPORT_ENERGIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
LOW, MIDDLE = 0.25, 0.5
"""Upper edges of the low and middle band, as shares of the final grid's side."""


Signal = Literal["flips", "confidence", "bands", "support"]
SIGNALS: frozenset[Signal] = frozenset(get_args(Signal))
"""What can be asked for; ``bands`` are the three numbers ``low``, ``middle`` and ``high``."""


@dataclass(frozen=True, slots=True)
class Signals:
    """What one image showed at one scale. Numbers that no accelerator of the batch asks for are not measured: flips
    are None then, the others NaN.

    Attributes:
        flips: share of codes whose most likely value guidance changed; None if one branch ran.
        confidence: mean probability of the most likely code.
        low, middle: energy of the scale's change of the latent in a band, relative to the latent's energy in it
            (amplitudes, so 1 means a change as large as the latent).
        high: the same above the middle band.
        support: per energy of ``SUPPORT_ENERGIES``, the smallest share of positions that holds that share of the
            latent's contrast: small where a picture is plain, large where it is textured.
        watched: the numbers of everything that the plan watched at the scale.
        before: the signals of the scale that ran before; None at the first.
    """

    flips: float | None
    confidence: float
    low: float
    middle: float
    high: float
    support: tuple[float, ...]
    watched: Mapping[Watch, Numbers] = field(default_factory=dict)
    before: Signals | None = None


CHANGING = Signals(1.0, 0.0, 100.0, 100.0, 100.0, (1.0,) * len(SUPPORT_ENERGIES))
SETTLED = Signals(0.0, 1.0, 0.0, 0.0, 0.0, (0.001,) * len(SUPPORT_ENERGIES))
"""The two ends: a scale that changes everything, and one that changes nothing."""


def measure(logits_nMV: Tensor, flips_n: Tensor | None, change_nDHW: Tensor, latent_nDHW: Tensor) -> list[Signals]:
    """The signals of n images, read from the device once."""
    return told(readings(SIGNALS, logits_nMV, flips_n, change_nDHW, latent_nDHW).tolist())


def readings(
    asked: frozenset[Signal], logits_nMV: Tensor, flips_n: Tensor | None, change_nDHW: Tensor, latent_nDHW: Tensor
) -> Tensor:
    """The numbers of n images' signals (n, 5 + energies), still on the device; NaN for what is not asked for, and for
    flips that were not counted."""
    nothing = latent_nDHW.new_full((len(latent_nDHW), 1), torch.nan, dtype=torch.float32)
    energies = len(SUPPORT_ENERGIES)
    return torch.cat(
        [
            nothing if flips_n is None else flips_n[:, None],
            confidence(logits_nMV)[:, None] if "confidence" in asked else nothing,
            bands(change_nDHW, latent_nDHW) if "bands" in asked else nothing.expand(-1, 3),
            support(contrast(latent_nDHW)) if "support" in asked else nothing.expand(-1, energies),
        ],
        1,
    )


def confidence(logits_nMV: Tensor) -> Tensor:
    """Mean probability (n,) of the most likely code."""
    return logits_nMV.float().softmax(-1).amax(-1).flatten(1).mean(1)


def bands(change_nDHW: Tensor, latent_nDHW: Tensor) -> Tensor:
    """(n, 3): amplitude of the change in the low, middle and high band, relative to the latent's there."""
    ratios = [
        change.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1).clamp(min=1e-6)
        for change, whole in zip(_bands(change_nDHW), _bands(latent_nDHW), strict=True)
    ]
    return torch.stack(ratios, 1)


def told(numbers: Sequence[Sequence[float]], watch: Sequence[Watch] = ()) -> list[Signals]:
    """The signals whose numbers were read: those of ``readings``, then those of what was watched."""
    found = []
    for flips, confidence, low, middle, high, *rest in numbers:
        own, watched = len(SUPPORT_ENERGIES), dict[Watch, Numbers]()
        support, rest = tuple(rest[:own]), rest[own:]
        for each in watch:
            count = len(each.ends[0])
            watched[each], rest = tuple(rest[:count]), rest[count:]
        found.append(Signals(None if math.isnan(flips) else flips, confidence, low, middle, high, support, watched))
    return found


def support(energy_n1HW: Tensor) -> Tensor:
    """(n, energies): smallest share of positions that holds each share of the energy."""
    energy = energy_n1HW.flatten(1).sort(1, descending=True).values.cumsum(1)
    wanted = sent(torch.tensor(SUPPORT_ENERGIES), energy.device) * energy[:, -1:]
    below: Tensor = (energy[:, None] < wanted[..., None]).sum(-1)
    return (below + 1).clamp(max=energy.shape[1]) / energy.shape[1]


def coverage(support: Sequence[float], energy: float) -> float:
    """The share of positions that holds a share of the energy, linear between the measured ones and up to (1, 1)."""
    place = bisect_left(SUPPORT_ENERGIES, energy)
    low, least = (SUPPORT_ENERGIES[place - 1], support[place - 1]) if place else (0.0, 0.0)
    high, most = (SUPPORT_ENERGIES[place], support[place]) if place < len(support) else (1.0, 1.0)
    return least + (energy - low) / (high - low) * (most - least)


def _bands(x_nDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Low, middle and high band, split by area resampling to a share of the grid."""
    h, w = x_nDHW.shape[-2:]
    low, both = (
        resize(x_nDHW, (max(1, round(h * share)), max(1, round(w * share))), "area") for share in (LOW, MIDDLE)
    )
    return (
        low,
        both - resize(low, (both.shape[-2], both.shape[-1]), "bilinear"),
        x_nDHW - resize(both, (h, w), "bilinear"),
    )


def flipped(guided_nMV: Tensor, cond_nMV: Tensor) -> Tensor:
    """Share of codes per image (n,) whose most likely value differs."""
    return (guided_nMV.argmax(-1) != cond_nMV.argmax(-1)).float().flatten(1).mean(1)
