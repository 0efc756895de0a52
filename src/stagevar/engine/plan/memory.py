"""What a later scale may need of an earlier one, per cohort: hidden states, increments, guidance differences."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from torch import Tensor

from stagevar.engine.grids.grid import Grid
from stagevar.engine.grids.latent import Mode
from stagevar.engine.grids.rows import resize_rows
from stagevar.errors import OptionError

MapKind = Literal["hidden", "increment", "guidance"]
"""``hidden``: the residual stream behind a group of blocks; ``increment``: what the group added to it; ``guidance``:
difference of the branches' last hidden states."""


class Memory:
    """The latest map of each kind and group of blocks. A map replaces its predecessor; nothing is changed in place."""

    def __init__(self) -> None:
        self._maps: dict[tuple[MapKind, int], tuple[Tensor, Grid]] = {}

    def put(self, kind: MapKind, group: int, rows_RMC: Tensor, grid: Grid) -> None:
        self._maps[kind, group] = rows_RMC, grid

    def get(self, kind: MapKind, group: int, grid: Grid, mode: Mode = "bilinear") -> Tensor:
        """The map (R, M, C) resampled to ``grid``.

        Raises:
            OptionError: nothing of that kind was kept, since the plan came to need it after the scale had run.
        """
        if (kind, group) not in self._maps:
            raise OptionError(
                f"no {kind} map was kept at the scale before; a plan that needs it must say so beforehand"
            )
        rows, own = self._maps[kind, group]
        return resize_rows(rows, own, grid, mode)

    def holds(self, kind: MapKind, group: int = 0) -> bool:
        return (kind, group) in self._maps

    def keep_only(self, kinds: Collection[MapKind]) -> None:
        """Release the maps of all other kinds."""
        self._maps = {key: value for key, value in self._maps.items() if key[0] in kinds}

    def take(self, rows: Tensor, images: Tensor) -> Memory:
        """The given rows only; ``images`` indexes what is kept per image and not per row (guidance differences)."""
        taken = Memory()
        taken._maps = {
            key: (value[images if key[0] == "guidance" else rows], grid) for key, (value, grid) in self._maps.items()
        }
        return taken


LAST = -1
"""Group under which memory holds the hidden state behind the last block."""
