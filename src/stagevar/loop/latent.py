"""Resizing of the latent between grids."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from stagevar.loop.plan import Grid

Mode = Literal["area", "bilinear", "bicubic"]


def resize(x_nDHW: Tensor, grid: Grid, mode: Mode) -> Tensor:
    """Resample (n, D, H, W) to ``grid`` without antialiasing or aligned corners; the same tensor if it fits already."""
    if tuple(x_nDHW.shape[-2:]) == tuple(grid):
        return x_nDHW
    if mode == "area":
        return F.interpolate(x_nDHW, grid, mode="area")
    return F.interpolate(x_nDHW, grid, mode=mode, align_corners=False)
