"""The picture sizes of Infinity: 15 aspect ratios by 4 pixel budgets, and the rotary table of a grid.

Source: FoundationVision/Infinity, ``utils/dynamic_resolution.py`` and ``models/basic.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stagevar.engine.grids.grid import Grid, Schedule

BUDGETS = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Number of scales per pixel budget. A smaller budget's schedule is the beginning of the 1M schedule of the same
aspect ratio."""

_PORTRAIT = {
    1.0: "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
    1.25: "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    1.333: "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    1.5: "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    1.75: "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    2.0: "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    2.5: "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    3.0: "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}


def _parse(text: str) -> Schedule:
    return tuple((int(h), int(w)) for h, w in (grid.split("x") for grid in text.split()))


def _ratios() -> dict[float, Schedule]:
    ratios = {ratio: _parse(text) for ratio, text in _PORTRAIT.items()}
    for ratio, schedule in list(ratios.items()):
        ratios[math.floor(1000 / ratio) / 1000] = tuple((w, h) for h, w in schedule)
    return ratios


RATIOS = _ratios()
"""The 1M schedule of each aspect ratio (height over width)."""

SCHEDULES = {schedule[:length][-1]: schedule[:length] for schedule in RATIOS.values() for length in BUDGETS.values()}
"""The schedule of each final grid; all 60 sizes have different final grids."""


def budget_schedule(budget: str, ratio: float = 1.0) -> Schedule:
    """The schedule of a pixel budget whose aspect ratio (height over width) is nearest to ``ratio``."""
    return RATIOS[min(RATIOS, key=lambda r: abs(r - ratio))][: BUDGETS[budget]]


def reference_grid(schedule: Schedule) -> Grid:
    """The grid that rotary positions are scaled to: the last grid of the 1M schedule that begins with ``schedule``.

    If no 1M schedule begins with it, the one whose last grid has the nearest aspect ratio counts.
    """
    beginnings = [full for full in RATIOS.values() if full[: len(schedule)] == schedule]
    slope = math.log(schedule[-1][0] / schedule[-1][1])
    nearest = min(beginnings or RATIOS.values(), key=lambda full: abs(math.log(full[-1][0] / full[-1][1]) - slope))
    return nearest[-1]


def nearest_sizes(height: int, width: int, unit: int, count: int = 3) -> list[Grid]:
    """The ``count`` sizes (height, width) of the table, in pixels, whose sides are nearest to the given ones.
    Logarithms of the sides are compared."""
    sizes = [(h * unit, w * unit) for h, w in SCHEDULES]
    distance = {(h, w): math.hypot(math.log(h / height), math.log(w / width)) for h, w in sizes}
    return sorted(sizes, key=distance.__getitem__)[:count]


def rotary_table(grid: Grid, reference: Grid, pairs: int, device: torch.device) -> Tensor:
    """Cosines and sines (M, pairs, 2) of a grid's tokens in raster order.

    The first half of the channel pairs rotates by the row, the second half by the column. Index y of a side h has the
    coordinate round(y * reference / h), with ties to even. The product comes before the division, because this order
    keeps the ties exact.
    """
    half = pairs // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    y, x = ((torch.arange(s, device=device) * r / s).round() for s, r in zip(grid, reference, strict=True))
    angles_yx = torch.meshgrid(y, x, indexing="ij")
    angles = torch.cat([position.reshape(-1, 1) * frequencies for position in angles_yx], -1)
    return torch.stack([angles.cos(), angles.sin()], -1)
