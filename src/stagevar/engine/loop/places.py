"""Places of the keys that each layer's cache holds, for patterns of attention and evictions."""

from __future__ import annotations

import torch
from torch import Tensor

from stagevar.engine.grids.grid import Grid
from stagevar.engine.plan.look import Places, as_tensor, joined
from stagevar.engine.plan.merge import centres
from stagevar.engine.plan.parts import Rows


class KeyPlaces:
    """Where the cached keys of each layer stand in the whole sequence. Nothing is changed in place."""

    def __init__(self, depth: int) -> None:
        self._places: list[Places] = [()] * depth

    def of(self, layer: int) -> Places:
        return self._places[layer]

    def extend(self, layer: int, new: Places) -> Places:
        """The places of a layer's keys and of new ones behind them, which are kept."""
        self._places[layer] = joined(self._places[layer], new)
        return self._places[layer]

    def evict(self, layer: int, slots_RHl: Tensor) -> Tensor:
        """Keep the given entries only; their places (R, H, l)."""
        places = as_tensor(self._places[layer], slots_RHl.device)
        kept = places.expand(*slots_RHl.shape[:2], -1).gather(2, slots_RHl)
        self._places[layer] = kept
        return kept

    def take(self, rows: Tensor) -> KeyPlaces:
        """Those of the given rows."""
        taken = KeyPlaces(len(self._places))
        taken._places = [each[rows] if isinstance(each, Tensor) and len(each) > 1 else each for each in self._places]
        return taken


def row_places(rows: Rows, grid: Grid, start: int, chosen: Tensor | None, device: torch.device) -> Places:
    """Places of rows of a stream.

    Args:
        rows: the stream's.
        grid: of the scale, whose first row stands at ``start``.
        chosen: (R, m) those of the stream's rows that are meant; None for all.
        device: of the result.
    """
    if rows.index is None and chosen is None and rows.grid == grid:
        return ((start, start + rows.ahead + grid[0] * grid[1]),)
    own = centres(grid, rows.grid, device)[None] if rows.index is None else rows.index
    ahead = torch.arange(rows.ahead, device=device).expand(len(own), -1)
    places = torch.cat([ahead, rows.ahead + own], 1)
    if chosen is not None:
        places = places.expand(len(chosen), -1).gather(1, chosen)
    return (start + places)[:, None]
