"""Which cached keys and values stay: by votes of a few queries, or by age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.grids.grid import Grid, Scale
from stagevar.engine.plan.look import Look, count
from stagevar.engine.plan.select import tied_top
from stagevar.errors import OptionError

TIE = 2.0**-20
"""Votes tie that differ by less than this share of the largest one; a bit more than rounding."""


@dataclass(frozen=True, slots=True)
class WindowVotes:
    """Each head keeps the rows of a window of the scale and the entries that the window's queries vote for.

    A vote is the product of key and bare query, summed over the window. Each entry then has the highest vote of its
    neighbours in the cache. Of equal votes the older entry stays.

    Attributes:
        capacities: entries that stay, per block of the network.
        cells: the window holds the middle of each of ``cells`` x ``cells`` regions of the grid. Of reduced rows as many
            take part, evenly spread.
        pool: neighbours that share their votes, an odd number.
    """

    capacities: tuple[int, ...]
    cells: int = 4
    pool: int = 5

    def __post_init__(self) -> None:
        if self.cells < 1 or self.pool < 1 or self.pool % 2 == 0:
            raise OptionError("WindowVotes takes cells from 1, and an odd pool")
        if not self.capacities or min(self.capacities) <= self.cells**2:
            raise OptionError(f"capacities must be more than the {self.cells**2} rows of the window")

    def capacity(self, at: Scale, rows: tuple[int, ...], layer: int) -> int:
        return self.capacities[layer]

    def voters(self, look: Look) -> tuple[int, ...]:
        if not isinstance(look.queries, Tensor):
            ahead = look.rows[look.at.k] - look.at.tokens
            return tuple(ahead + place for place in window(look.at.grid, self.cells))
        rows, few = count(look.queries), min(self.cells**2, count(look.queries))
        return tuple((2 * i + 1) * rows // (2 * few) for i in range(few))

    def keep(self, keys: Tensor, queries: Callable[[], Tensor], look: Look) -> Tensor:
        votes = self.votes(keys, queries(), look)
        largest = votes.masked_fill(votes == torch.inf, 0).abs().amax(-1, keepdim=True)
        return tied_top(votes, self.capacities[look.layer], TIE * largest)

    def votes(self, keys: Tensor, queries_RHwD: Tensor, look: Look) -> Tensor:
        """(R, H, L), infinite for the window."""
        own = torch.tensor(self.voters(look), device=keys.device) + keys.shape[2] - count(look.queries)
        votes = (keys.float() @ queries_RHwD.float().sum(2)[..., None])[..., 0] * keys.shape[-1] ** -0.5
        votes[..., own] = -torch.inf
        votes = F.max_pool1d(votes, self.pool, 1, self.pool // 2)
        votes[..., own] = torch.inf
        return votes


@dataclass(frozen=True, slots=True)
class Recent:
    """The oldest and the newest entries stay: as many as the first and the latest scales have rows.

    Attributes:
        sinks: how many first scales.
        scales: how many latest scales, this one included.
    """

    sinks: int = 5
    scales: int = 2

    def __post_init__(self) -> None:
        if self.sinks < 0 or self.scales < 1:
            raise OptionError("Recent takes sinks from 0 and scales from 1")

    def capacity(self, at: Scale, rows: tuple[int, ...], layer: int) -> int:
        return sum(self._ends(at, rows))

    def voters(self, look: Look) -> tuple[int, ...]:
        return ()

    def keep(self, keys: Tensor, queries: Callable[[], Tensor], look: Look) -> Tensor:
        oldest, newest = self._ends(look.at, look.rows)
        slots = torch.arange(keys.shape[2], device=keys.device)
        chosen = torch.cat([slots[:oldest], slots[len(slots) - newest :]])
        return chosen.expand(*keys.shape[:2], -1)

    def _ends(self, at: Scale, rows: tuple[int, ...]) -> tuple[int, int]:
        """How many of the oldest and of the newest entries stay."""
        first = max(self.sinks, at.k + 1 - self.scales)
        return sum(rows[: min(self.sinks, at.k + 1)]), sum(rows[first : at.k + 1])


def window(grid: Grid, cells: int) -> tuple[int, ...]:
    """The middle of each of ``cells`` x ``cells`` regions of a grid, in raster order; fewer where a side is shorter."""
    sides = []
    for side in grid:
        few = min(cells, side)
        sides.append([i * (side // few) + (side // few - 1) // 2 for i in range(few)])
    return tuple(y * grid[1] + x for y in sides[0] for x in sides[1])
