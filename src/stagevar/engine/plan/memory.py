"""What a later scale may need of an earlier one, per cohort: hidden states, increments, differences, logits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from torch import Tensor

from stagevar.engine.grids.grid import Grid
from stagevar.engine.grids.latent import Mode
from stagevar.engine.grids.rows import resize_rows
from stagevar.engine.plan.watch import Watch
from stagevar.errors import OptionError

MapKind = Literal["hidden", "increment", "guidance", "part", "watched", "logits", "correction", "keys"]
"""``hidden``: the residual stream behind a group of blocks; ``increment``: what the group added to it; ``guidance``:
difference of the branches' last hidden states; ``part``: what one part of a block added; ``watched``: what a plan
watches, a value per token; ``logits``: guided scores of the codes; ``correction`` and ``keys``: what a pattern of
attention leaves (``similar.py``)."""

PER_IMAGE: tuple[MapKind, ...] = ("guidance", "watched", "logits")
"""Maps with a row per image and not per row of the stream."""

Site = int | tuple[int, str] | Watch
"""Where a map belongs: the index of a group of blocks, a block and a name within it, or what is watched."""

LAST = -1
"""Group under which memory holds the hidden state behind the last block."""


class Memory:
    """Maps of earlier scales by kind, site and the scale that wrote them. Nothing is changed in place."""

    def __init__(self) -> None:
        self._maps: dict[tuple[MapKind, Site, int], tuple[Tensor, Grid]] = {}

    def put(self, kind: MapKind, site: Site, scale: int, rows_RMC: Tensor, grid: Grid) -> None:
        self._maps[kind, site, scale] = rows_RMC, grid

    def get(self, kind: MapKind, site: Site, scale: int, grid: Grid, mode: Mode = "bilinear") -> Tensor:
        """The map (R or n, M, C) that ``scale`` wrote, resampled to ``grid``.

        Raises:
            OptionError: it was not kept, since the plan came to need it after the scale had run.
        """
        rows = self.stored(kind, site, scale)
        return resize_rows(rows, self._maps[kind, site, scale][1], grid, mode)

    def stored(self, kind: MapKind, site: Site, scale: int) -> Tensor:
        """What ``scale`` put, as it is. Its first dimension is that of the rows.

        Raises:
            OptionError: as ``get``.
        """
        if (kind, site, scale) not in self._maps:
            raise OptionError(f"no {kind} map of scale {scale} was kept; a plan that needs it must say so beforehand")
        return self._maps[kind, site, scale][0]

    def keep_only(self, read: Collection[tuple[MapKind, int]]) -> None:
        """Release all maps but those of the given kinds and scales."""
        self._maps = {key: value for key, value in self._maps.items() if (key[0], key[2]) in read}

    def take(self, rows: Tensor, images: Tensor) -> Memory:
        """The given rows only; ``images`` indexes what is kept per image."""
        taken = Memory()
        taken._maps = {
            key: (value[images if key[0] in PER_IMAGE else rows], grid) for key, (value, grid) in self._maps.items()
        }
        return taken
