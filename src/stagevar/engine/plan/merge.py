"""Process the means of rectangular regions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stagevar.engine.grids.grid import Grid
from stagevar.engine.grids.rows import resize_rows
from stagevar.engine.plan.memory import MapKind
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.tokens import Reduced, Scope, TokenContext


@dataclass(frozen=True, slots=True)
class Merge:
    """Process the means of rectangular regions and add their upsampled increment to the untouched stream.

    Attributes:
        keep: regions as a share of the rows; both sides of the grid shrink by its square root.
        scope, dense: see ``Tokens``.
    """

    keep: float
    scope: Scope = "network"
    dense: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        Select(self.keep, scope=self.scope, dense=self.dense)

    @property
    def needs(self) -> tuple[MapKind, ...]:
        return ()

    @property
    def source(self) -> int | None:
        return None

    @property
    def final(self) -> bool:
        return False

    @property
    def aligned(self) -> bool:
        return True

    def reduce(self, x_RMC: Tensor, context: TokenContext) -> Reduced:
        side = math.sqrt(self.keep)
        coarse = (max(1, round(context.grid[0] * side)), max(1, round(context.grid[1] * side)))
        pooled = resize_rows(x_RMC, context.grid, coarse, "area")
        at = centres(context.grid, coarse, x_RMC.device)
        rope = None if context.rope is None else context.rope[..., at, :, :]
        return Reduced(pooled, rope, grid=coarse)

    def restore(self, x_RMC: Tensor, y_RrC: Tensor, reduced: Reduced, context: TokenContext) -> Tensor:
        assert reduced.grid is not None
        if reduced.grid == context.grid:
            return y_RrC
        return x_RMC + resize_rows(y_RrC - reduced.x, reduced.grid, context.grid, "bilinear")


def centres(grid: Grid, coarse: Grid, device: torch.device) -> Tensor:
    """Raster positions on ``grid`` nearest to the centres of the regions of ``coarse``: (r,)."""
    y, x = (
        ((torch.arange(few, device=device) + 0.5) * (many / few)).long().clamp(max=many - 1)
        for many, few in zip(grid, coarse, strict=True)
    )
    return (y[:, None] * grid[1] + x).flatten()
