"""The latent as a picture: resizing between grids, and where it has contrast."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.grids.grid import Grid

DETAIL = 16
"""Side of the grid on which a picture's contrast is looked at; means over its cells have little noise."""

Mode = Literal["area", "bilinear", "bicubic"]


def resize(x_nDHW: Tensor, grid: Grid, mode: Mode) -> Tensor:
    """Resample (n, D, H, W) to ``grid`` without antialiasing or aligned corners; the same tensor if it fits already."""
    if tuple(x_nDHW.shape[-2:]) == tuple(grid):
        return x_nDHW
    if mode == "area":
        return F.interpolate(x_nDHW, grid, mode="area")
    return F.interpolate(x_nDHW, grid, mode=mode, align_corners=False)


def contrast(latent_nDHW: Tensor) -> Tensor:
    """Energy of the differences between neighbouring positions, each counted at both: (n, 1, H, W)."""
    n, _, H, W = latent_nDHW.shape
    energy = latent_nDHW.new_zeros(n, 1, H, W)
    for axis in (2, 3):
        step = latent_nDHW.diff(dim=axis).square().sum(1, keepdim=True)
        length = step.shape[axis]
        energy.narrow(axis, 0, length).add_(step)
        energy.narrow(axis, 1, length).add_(step)
    return energy


def detail(pictures: Tensor) -> Tensor:
    """Where pictures (n, 3, height, width) have contrast: (n, 1, 16, 16)."""
    return contrast(resize(pictures, (DETAIL, DETAIL), "area"))
