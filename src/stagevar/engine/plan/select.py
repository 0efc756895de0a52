"""Process the rows of highest score only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.grids.grid import Grid
from stagevar.engine.grids.latent import contrast, resize
from stagevar.engine.grids.rows import gather, gather_rope, scatter
from stagevar.engine.plan.memory import MapKind
from stagevar.engine.plan.tokens import Reduced, Scope, TokenContext
from stagevar.errors import OptionError

Score = Literal["contrast", "change", "norm", "distance", "picture"]

ALIGNED: tuple[Score, ...] = ("contrast", "change", "picture")
"""Scores that are the same for both branches."""

TIE, FLOOR = 2.0**-18, 1e-6
"""A score is rounded by this share of itself, and of the share ``FLOOR`` of the row's highest score."""

Restore = Literal["increment", "hidden", "nearest", "lowrank", "zero_code"]


def kept(keep: float, count: int) -> int:
    """Rows of ``count`` that a share stands for: at least one."""
    return max(1, min(count, math.floor(keep * count + 0.5)))


@dataclass(frozen=True, slots=True)
class Select:
    """Process the rows of highest score.

    Attributes:
        keep: share of the rows, in (0, 1].
        score: ``contrast``: energy of the latent's differences to the neighbouring positions; ``change``: energy of
            the last codes' update at the token; ``norm``: squared norm of the row; ``distance``: squared distance from
            the mean row (FastVAR); ``picture``: contrast of the picture that the image begins with, which is known in
            advance, or of the latent where there is none or it is flat. All but ``norm`` and ``distance`` are the same
            for both branches.
        restore_by: what the other rows get. ``increment``: their own stream plus the group's increment at the scale
            before; ``hidden``: the group's hidden state at the scale before; ``nearest``: the increment of the nearest
            kept row; ``lowrank``: increments mixed by the least-squares weights that write the input rows in terms of
            the kept ones; ``zero_code``: nothing, they add no codes.
        scope, dense, source: see ``Tokens``.
    """

    keep: float
    score: Score = "contrast"
    restore_by: Restore = "increment"
    scope: Scope = "network"
    dense: tuple[float, float] = (0.0, 0.0)
    source: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise OptionError(f"keep must lie in (0, 1], not {self.keep}")
        if not (min(self.dense) >= 0 and sum(self.dense) < 1):
            raise OptionError(f"dense must be two shares of the layers below 1 in sum, not {self.dense}")
        if self.restore_by == "zero_code" and (self.scope != "network" or self.dense[1] > 0):
            raise OptionError("zero_code leaves rows out to the end: it needs scope 'network' and no dense last layers")
        if self.restore_by == "zero_code" and not self.aligned:
            raise OptionError("zero_code needs the same rows in both branches: score 'contrast', 'change' or 'picture'")

    @property
    def needs(self) -> tuple[MapKind, ...]:
        return {"increment": ("increment",), "hidden": ("hidden",)}.get(self.restore_by, ())  # type: ignore[return-value]

    @property
    def final(self) -> bool:
        return self.restore_by == "zero_code"

    @property
    def aligned(self) -> bool:
        return self.score in ALIGNED

    def reduce(self, x_RMC: Tensor, context: TokenContext) -> Reduced:
        count = kept(self.keep, x_RMC.shape[1])
        scores = self.scores(x_RMC, context)
        if type(self) is not Select:
            _check_scores(scores, x_RMC)
        index = highest(scores, count)
        return Reduced(gather(x_RMC, index), gather_rope(context.rope, index), index)

    def scores(self, x_RMC: Tensor, context: TokenContext) -> Tensor:
        """(R, M), larger is more worth processing."""
        return row_scores(self.score, x_RMC, context.grid, context.latent, context.change, context.detail)

    def restore(self, x_RMC: Tensor, y_RrC: Tensor, reduced: Reduced, context: TokenContext) -> Tensor:
        index = reduced.index
        assert index is not None
        if index.shape[1] == x_RMC.shape[1]:
            return y_RrC
        if self.restore_by == "hidden":
            return scatter(context.earlier("hidden"), index, y_RrC)
        if self.restore_by == "increment":
            return scatter(x_RMC + context.earlier("increment"), index, y_RrC)
        if self.restore_by == "nearest":
            return scatter(x_RMC + gather(y_RrC - reduced.x, nearest(index, context.grid)), index, y_RrC)
        return scatter(x_RMC + least_squares(x_RMC, reduced.x) @ (y_RrC - reduced.x), index, y_RrC)


def _check_scores(scores: Tensor, x_RMC: Tensor) -> None:
    """Check the scores of a class that has its own. Their numbers are read on the CPU alone: elsewhere that would wait.

    Raises:
        ValueError: they are not one number, 0 or more, per row.
    """
    if scores.shape != x_RMC.shape[:2]:
        raise ValueError(f"scores are {tuple(scores.shape)}, expected {tuple(x_RMC.shape[:2])}")
    if scores.device.type == "cpu" and not bool((scores >= 0).all()):
        raise ValueError("scores must be 0 or more, and none NaN")


def row_scores(
    score: Score, x_RMC: Tensor, grid: Grid, latent: Tensor, change: Tensor, detail: Tensor | None = None
) -> Tensor:
    """Scores (R, M), or those of all positions of ``grid`` where they do not depend on the rows; see ``Select``."""
    if score == "norm":
        return x_RMC.square().sum(-1)
    if score == "distance":
        return (x_RMC - x_RMC.mean(1, keepdim=True)).square().sum(-1)
    energy = contrast(latent) if score in ("contrast", "picture") else change.square().sum(1, keepdim=True)
    energy = resize(energy, grid, "area")
    if score == "picture" and detail is not None:
        given = detail.amax((1, 2, 3), keepdim=True) > 0
        energy = torch.where(given, resize(detail, grid, "bilinear"), energy)
    return energy.flatten(1).repeat(len(x_RMC) // len(energy), 1)


def highest(scores_RM: Tensor, count: int) -> Tensor:
    """Positions (R, count) of the highest scores, in raster order; of tied positions the first win.

    Positions that look alike tie but for the rounding of arithmetic, which differs between batches. So scores that
    differ from the lowest one taken by less than rounding count as tied with it.

    Args:
        scores_RM: 0 or more.
        count: how many to take, in [1, M].
    """
    scores = scores_RM.float()
    lowest = scores.topk(count, dim=1).values[:, -1:]
    return tied_top(scores, count, TIE * (lowest + FLOOR * scores.amax(1, keepdim=True)))


def tied_top(scores: Tensor, count: int, margin: Tensor) -> Tensor:
    """Positions (..., count) of the highest scores (..., M), ascending; scores within ``margin`` (..., 1) of the lowest
    one taken tie with it, and of them the first win."""
    lowest = scores.topk(count, dim=-1).values[..., -1:]
    rank = (scores > lowest + margin).int() + (scores >= lowest - margin).int()
    return rank.sort(stable=True, dim=-1, descending=True).indices[..., :count].sort(-1).values


def ranked(scores_nM: Tensor) -> Tensor:
    """Rank of each position (n, M), 0 for the lowest score. Scores that differ by less than rounding from their next
    one count as tied, and of tied positions the first has the highest rank."""
    scores, order = scores_nM.float().sort(dim=1, descending=True, stable=True)
    apart = scores[:, :-1] - scores[:, 1:] > TIE * (scores[:, :-1] + FLOOR * scores[:, :1])
    level = F.pad(apart.long().cumsum(1), (1, 0))
    M = scores.shape[1]
    order = order.gather(1, (level * M + order).argsort(1))
    ranks = torch.arange(M - 1, -1, -1, device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks)


def nearest(index_Rr: Tensor, grid: Grid) -> Tensor:
    """For each position of the grid the kept row nearest to it on the grid: (R, M) indices into r."""
    place = torch.arange(grid[0] * grid[1], device=index_Rr.device)
    y, x = place // grid[1], place % grid[1]
    ky, kx = index_Rr // grid[1], index_Rr % grid[1]
    distance = (y[:, None] - ky[:, None]).square() + (x[:, None] - kx[:, None]).square()
    first = torch.arange(index_Rr.shape[1], device=index_Rr.device)  # of equally near rows the first
    return (distance * index_Rr.shape[1] + first).argmin(-1)


def least_squares(x_RMC: Tensor, kept_RrC: Tensor, ridge: float = 1e-3) -> Tensor:
    """Weights W (R, M, r) of least squares, x ~ W kept, with a ridge relative to the mean squared norm."""
    gram = kept_RrC @ kept_RrC.mT
    level = ridge * gram.diagonal(dim1=1, dim2=2).mean(1)
    gram = gram + level[:, None, None] * torch.eye(gram.shape[1], device=gram.device)
    weights: Tensor = torch.linalg.solve_ex(gram, kept_RrC @ x_RMC.mT).result.mT
    return weights
