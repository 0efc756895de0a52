"""Tokens as rows and as maps."""

from __future__ import annotations

from torch import Tensor

from stagevar.loop.plan import Grid


def expand_rows(x_nMC: Tensor, rows: int) -> Tensor:
    """Repeat n image rows to ``rows`` = n or 2n (prompts' rows first, null rows behind)."""
    n = x_nMC.shape[0]
    return x_nMC if rows == n else x_nMC.repeat(rows // n, *([1] * (x_nMC.dim() - 1)))


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
