"""Process fewer rows: reduce the residual stream before a group of blocks, restore it behind.

``Tokens`` is plain data with two pure methods; an accelerator may bring its own. Kept rows stay in raster order and
carry the rotary positions of the dense run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from stagevar.engine.grids.grid import Grid
from stagevar.engine.grids.latent import Mode
from stagevar.engine.plan.memory import MapKind, Memory
from stagevar.engine.plan.watch import Watch

Scope = Literal["network", "group"]


@dataclass(frozen=True, slots=True)
class TokenContext:
    """What a reduction may look at.

    Attributes:
        scale: index of the scale; ``grid`` its height and width.
        group: index of the group of blocks; ``groups`` how many there are.
        rope: (M, P, 2) or (R, M, P, 2) of all rows of the scale, or None.
        seeds: per row of the residual stream.
        latent: (n, D, H, W) of the n images; their R rows are one branch after the other.
        change: (n, D, H, W) what the last scale that ran added to it.
        memory: maps of earlier scales.
        source: the scale whose maps restore the rows, -1 if none is read.
        detail: (n, 1, h, w) where the pictures that the images begin with have contrast, or None.
    """

    scale: int
    grid: Grid
    group: int
    groups: int
    rope: Tensor | None
    seeds: Sequence[int]
    latent: Tensor
    change: Tensor
    memory: Memory
    source: int = -1
    detail: Tensor | None = None

    def earlier(self, kind: MapKind, mode: Mode = "bilinear") -> Tensor:
        """The group's map (R, M, C) of the source, on this scale's grid."""
        return self.memory.get(kind, self.group, self.source, self.grid, mode)

    def watched(self, watch: Watch, mode: Mode = "bilinear") -> Tensor:
        """What the source has watched, (n, M) on this scale's grid."""
        return self.memory.get("watched", watch, self.source, self.grid, mode)[..., 0]


@dataclass(frozen=True, slots=True)
class Reduced:
    """Fewer rows.

    Attributes:
        x: (R, r, C).
        rope: (R, r, P, 2) or (r, P, 2), or None.
        index: (R, r) raster positions that the rows stand for, or None if they stand for regions.
        grid: the coarser grid of such regions.
    """

    x: Tensor
    rope: Tensor | None
    index: Tensor | None = None
    grid: Grid | None = None


class Tokens(Protocol):
    """A way to process fewer rows.

    Attributes:
        scope: ``group`` reduces and restores around each group of blocks, ``network`` once.
        dense: share of the layers at the start and at the end that process all rows.
        needs: maps of an earlier scale that are read, and which of its watches.
        source: index of that scale; None means the one that ran before.
        final: if True, nothing is restored: only the processed rows reach the head, and the other positions add no
            codes.
        aligned: whether row i of an image's branches stands for the same positions; scores may differ between branches.
    """

    @property
    def scope(self) -> Scope: ...
    @property
    def dense(self) -> tuple[float, float]: ...
    @property
    def needs(self) -> tuple[MapKind | Watch, ...]: ...
    @property
    def source(self) -> int | None: ...
    @property
    def final(self) -> bool: ...
    @property
    def aligned(self) -> bool: ...
    def reduce(self, x_RMC: Tensor, context: TokenContext) -> Reduced: ...
    def restore(self, x_RMC: Tensor, y_RrC: Tensor, reduced: Reduced, context: TokenContext) -> Tensor: ...
