"""Tokens as rows and as maps."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from stagevar.engine.grids.grid import Grid
from stagevar.engine.grids.latent import Mode, resize


def expand_rows(x_nMC: Tensor, rows: int) -> Tensor:
    """Repeat n image rows to ``rows`` = n or 2n (prompts' rows first, null rows behind)."""
    n = x_nMC.shape[0]
    return x_nMC if rows == n else x_nMC.repeat(rows // n, *([1] * (x_nMC.dim() - 1)))


def placed(rows_nrD: Tensor, count: int, index_nr: Tensor | None, gain_nr: Tensor | None) -> Tensor:
    """Rows times their gain (None: 1), all ``count`` of a grid or at the given positions of otherwise zero rows."""
    rows = rows_nrD if gain_nr is None else rows_nrD * gain_nr[..., None]
    return rows if index_nr is None else spread(rows, index_nr, count)


def spread(rows_nrD: Tensor, index_nr: Tensor, count: int) -> Tensor:
    """Rows at the given positions of otherwise zero rows: (n, count, D)."""
    n, _, D = rows_nrD.shape
    return rows_nrD.new_zeros(n, count, D).scatter_(1, index_nr[..., None].expand(-1, -1, D), rows_nrD)


def token_map(tokens_nMD: Tensor, grid: Grid) -> Tensor:
    """(n, h * w, D) in raster order to (n, D, h, w)."""
    n, _, D = tokens_nMD.shape
    return tokens_nMD.transpose(1, 2).reshape(n, D, *grid)


def token_rows(map_nDhw: Tensor) -> Tensor:
    """(n, D, h, w) to (n, h * w, D) in raster order."""
    return map_nDhw.flatten(2).transpose(1, 2)


def resize_rows(rows_RMC: Tensor, grid: Grid, to: Grid, mode: Mode) -> Tensor:
    """Resample token rows of ``grid`` (R, h * w, C) to another grid."""
    R, _, C = rows_RMC.shape
    if grid == to:
        return rows_RMC
    return resize(rows_RMC.transpose(1, 2).reshape(R, C, *grid), to, mode).flatten(2).transpose(1, 2)


Branch = Literal["both", "cond", "null"]
Role = Literal["attention", "cross", "feed_forward"]
"""What a residual part of a block does: self-attention, attention to the text, or a perceptron."""


def gather(x_RMC: Tensor, index_Rr: Tensor) -> Tensor:
    """Rows of x at ``index``: (R, r, C)."""
    return x_RMC.gather(1, index_Rr[..., None].expand(-1, -1, x_RMC.shape[-1]))


def scatter(x_RMC: Tensor, index_Rr: Tensor, y_RrC: Tensor) -> Tensor:
    """A copy of x whose rows at ``index`` are y."""
    return x_RMC.scatter(1, index_Rr[..., None].expand(-1, -1, x_RMC.shape[-1]), y_RrC)


def gather_rope(rope: Tensor | None, index_Rr: Tensor) -> Tensor | None:
    """Rotary factors (M, P, 2) or (R, M, P, 2) of the rows at ``index``: (R, r, P, 2)."""
    if rope is None or rope.dim() == 3:
        return None if rope is None else rope[index_Rr]
    return rope.gather(1, index_Rr[..., None, None].expand(-1, -1, *rope.shape[2:]))
