"""The grids of one picture size."""

from __future__ import annotations

Grid = tuple[int, int]
"""Height and width of one scale, in tokens."""

Schedule = tuple[Grid, ...]
"""The grids of one picture size, first to final."""


def share_of_final(schedule: Schedule, k: int) -> float:
    """Side of scale k relative to the final grid: the square root of the share of its area."""
    (h, w), (H, W) = schedule[k], schedule[-1]
    return float((h * w / (H * W)) ** 0.5)
