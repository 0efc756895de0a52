"""Process fewer rows of single parts of blocks; the other rows get the part's increment at an earlier scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from stagevar.engine.grids.grid import Grid
from stagevar.engine.grids.latent import Mode
from stagevar.engine.grids.rows import Role, gather
from stagevar.engine.plan.channels import Channels
from stagevar.engine.plan.memory import MapKind, Memory
from stagevar.engine.plan.select import ALIGNED, Score, highest, row_scores
from stagevar.engine.plan.watch import Watch
from stagevar.errors import OptionError

ROLES: tuple[Role, ...] = get_args(Role)

Layers = tuple[float, float]
"""Consecutive blocks as shares of the depth, from the first to behind the last, rounded to whole blocks."""

EVERY: Layers = (0.0, 1.0)

Fill = Literal["part", "zero"]


def blocks(layers: Layers, depth: int) -> range:
    """The blocks that shares of the depth stand for."""
    return range(round(layers[0] * depth), round(layers[1] * depth))


def check_layers(layers: Layers) -> None:
    """Raises OptionError: no rising pair of shares."""
    if not (len(layers) == 2 and 0 <= layers[0] < layers[1] <= 1):
        raise OptionError(f"layers must be two rising shares of the depth in [0, 1], not {layers}")


@dataclass(frozen=True, slots=True)
class Sites:
    """Parts of the network: those of some roles in some blocks."""

    roles: tuple[Role, ...] = ROLES
    layers: Layers = EVERY

    def has(self, layer: int, role: Role, depth: int) -> bool:
        return role in self.roles and layer in blocks(self.layers, depth)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a residual stream.

    Attributes:
        ahead: how many lie ahead of the tokens.
        grid: what the tokens fill, or what ``index`` counts in.
        index: (R, r) raster positions of the tokens, None for all of the grid.
    """

    ahead: int
    grid: Grid
    index: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PartContext:
    """What a rule may look at besides the rows.

    Attributes:
        site: the block and the part.
        latent, change: as in ``TokenContext``.
        memory: maps of earlier scales.
        before: the scale that ran before.
        detail: as in ``TokenContext``.
    """

    site: tuple[int, Role]
    latent: Tensor
    change: Tensor
    memory: Memory
    before: int
    detail: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PartRows:
    """Which rows some parts process, and what the others get.

    Attributes:
        prune: share of the rows that a part does not process, in [0, 1]; at 1 the part is not run.
        roles, layers: the parts.
        score: rows of highest score are processed, as in ``Select``, or by what was watched at ``score_source``.
        fill: the others get the same part's increment at ``source`` (``part``) or none (``zero``).
        source, score_source: index of an earlier scale; None means the one that ran before.
        mode: how the increment is resampled.
        channels: what brings the increment nearer to this scale's own, per block; None leaves it.
    """

    prune: float = 1.0
    roles: tuple[Role, ...] = ROLES
    layers: Layers = EVERY
    score: Score | Watch = "distance"
    fill: Fill = "part"
    source: int | None = None
    score_source: int | None = None
    mode: Mode = "bilinear"
    channels: Channels | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.prune <= 1:
            raise OptionError(f"prune must lie in [0, 1], not {self.prune}")
        if not self.roles or not set(self.roles) <= set(ROLES):
            raise OptionError(f"roles must be some of {', '.join(ROLES)}, not {self.roles}")
        check_layers(self.layers)
        for name, choices in (("score", get_args(Score)), ("fill", get_args(Fill)), ("mode", get_args(Mode))):
            if getattr(self, name) not in choices and not isinstance(getattr(self, name), Watch):
                raise OptionError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")

    @property
    def sites(self) -> Sites:
        return Sites(self.roles, self.layers)

    @property
    def needs(self) -> Iterator[tuple[MapKind | Watch, int | None]]:
        """What is read of which earlier scale: the part's increment, and what was watched."""
        if self.fill == "part" and self.prune > 0:
            yield "part", self.source
        if isinstance(self.score, Watch) and 0 < self.prune < 1:
            yield self.score, self.score_source

    @property
    def aligned(self) -> bool:
        """Whether both branches process the same positions."""
        return isinstance(self.score, Watch) or self.score in ALIGNED

    def count(self, rows: int) -> int:
        """How many of the rows a part processes."""
        return rows - math.floor(rows * self.prune)

    def choose(self, x_RrC: Tensor, rows: Rows, context: PartContext) -> Tensor:
        """Rows (R, count) that are processed, ascending; x are the tokens' rows."""
        count = self.count(x_RrC.shape[1])
        if not count:
            return torch.empty(len(x_RrC), 0, dtype=torch.long, device=x_RrC.device)
        if isinstance(self.score, Watch):
            source = context.before if self.score_source is None else self.score_source
            watched = context.memory.get("watched", self.score, source, rows.grid, self.mode)[..., 0]
            scores = self.score.scores(watched).repeat(len(x_RrC) // len(watched), 1)
        else:
            scores = row_scores(self.score, x_RrC, rows.grid, context.latent, context.change, context.detail)
        if rows.index is not None and self.aligned:
            scores = scores.gather(1, rows.index)
        return highest(scores, count)

    def others(self, x_RrC: Tensor, rows: Rows, context: PartContext) -> Tensor:
        """What rows get that the part does not process: (R, r, C)."""
        if self.fill == "zero":
            return torch.zeros_like(x_RrC)
        source = context.before if self.source is None else self.source
        earlier = context.memory.get("part", context.site, source, rows.grid, self.mode)
        others = earlier if rows.index is None else gather(earlier, rows.index)
        return others if self.channels is None else self.channels(others, context.site[0])


def rule_at(rules: tuple[PartRows, ...], layer: int, role: Role, depth: int) -> PartRows | None:
    """The first rule that holds for a part."""
    return next((rule for rule in rules if rule.sites.has(layer, role, depth)), None)
