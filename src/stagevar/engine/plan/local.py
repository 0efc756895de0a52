"""Self-attention within windows around each query at every scale, and to the first scales, in whole blocks of keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stagevar.engine.grids.grid import Grid, Scale, Schedule
from stagevar.engine.plan.look import Look, Runs, as_tensor, count
from stagevar.engine.plan.memory import MapKind
from stagevar.engine.plan.parts import EVERY, Layers, check_layers
from stagevar.errors import OptionError

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Local:
    """Each query attends to the keys near its own position at every scale, and to all keys of the first scales.

    Queries of a scale and keys of the whole sequence are divided into blocks of consecutive rows. A block of queries
    attends to all keys of every block that holds a key which one of them sees.

    Attributes:
        windows: width of the window at each of the last scales of the schedule, in tokens of that scale; -1 shows no
            token. Scales before these have none. A query always sees itself.
        sinks: how many first scales are seen by all queries.
        block: rows of a block.
        layers: the blocks of the network in which this holds.
    """

    windows: tuple[int, ...] = (1, 1, 3, 5, 7)
    sinks: int = 5
    block: int = 128
    layers: Layers = EVERY

    def __post_init__(self) -> None:
        check_layers(self.layers)
        if not self.windows or self.sinks < 0 or self.block < 1:
            raise OptionError("Local takes a window for at least the last scale, sinks from 0 and blocks from 1")

    @property
    def needs(self) -> tuple[tuple[MapKind, int], ...]:
        return ()

    @property
    def leaves(self) -> tuple[MapKind, ...]:
        return ()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, /, *, scale: float, look: Look) -> Tensor:
        if isinstance(look.queries, Tensor) or isinstance(look.keys, Tensor):
            return F.scaled_dot_product_attention(q, k, v, self.visible(look, q.device), scale=scale)
        out = []
        for rows, keys in self._lists(look, look.queries, look.keys):
            if len(keys) == k.shape[2]:
                out.append(F.scaled_dot_product_attention(q[:, :, rows], k, v, scale=scale))
            else:
                seen = torch.from_numpy(keys).to(q.device)
                out.append(F.scaled_dot_product_attention(q[:, :, rows], k[:, :, seen], v[:, :, seen], scale=scale))
        return out[0] if len(out) == 1 else torch.cat(out, 2)

    def products(self, look: Look) -> int:
        """A pattern over rows that are known at run time only is a mask: it takes all products."""
        if isinstance(look.queries, Tensor) or isinstance(look.keys, Tensor):
            return 2 * count(look.queries) * count(look.keys)
        lists = self._lists(look, look.queries, look.keys)
        return sum(2 * (rows.stop - rows.start) * len(keys) for rows, keys in lists)

    def visible(self, look: Look, device: torch.device) -> Tensor:
        """Which keys each query attends to, bool (R or 1, H or 1, m, L)."""
        table = torch.from_numpy(self.table(look)).to(device)
        queries = (as_tensor(look.queries, device) - look.start) // self.block
        return table[queries[..., :, None], (as_tensor(look.keys, device) // self.block)[..., None, :]]

    def table(self, look: Look) -> Mask:
        """Which blocks of keys (of the whole sequence) each block of queries (of the scale) attends to."""
        return block_table(look.at.schedule, look.rows, look.at.k, self.windows, self.sinks, self.block)

    def _lists(self, look: Look, queries: Runs, keys: Runs) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Consecutive queries with the slots of the keys that they attend to; one entry if they attend to all."""
        table, block_of = self.table(look), _places(keys) // self.block
        blocks = (_places(queries) - look.start) // self.block
        edges = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(blocks)]
        lists = [np.flatnonzero(table[blocks[start]][block_of]) for start in edges[:-1]]
        if all(len(slots) == len(block_of) for slots in lists):
            yield slice(0, len(blocks)), lists[0]
            return
        for edge, slots in zip(pairwise(edges), lists, strict=True):
            yield slice(*edge), slots


def _places(runs: Runs) -> NDArray[np.int64]:
    return np.concatenate([np.arange(start, end) for start, end in runs])


@lru_cache(maxsize=64)
def block_table(
    schedule: Schedule, rows: tuple[int, ...], k: int, windows: tuple[int, ...], sinks: int, block: int
) -> Mask:
    """See ``Local.table``."""
    starts = range(0, rows[k], block)
    parts = [np.logical_or.reduceat(seen, starts, axis=0) for seen in token_tables(schedule, rows, k, windows, sinks)]
    found: Mask = np.logical_or.reduceat(np.concatenate(parts, 1), range(0, sum(rows[: k + 1]), block), axis=1)
    return found


def token_tables(
    schedule: Schedule, rows: tuple[int, ...], k: int, windows: tuple[int, ...], sinks: int
) -> Iterator[Mask]:
    """Per scale up to k: which of its rows each row of scale k sees. Rows ahead of tokens see and are seen by all."""
    for j, grid in enumerate(schedule[: k + 1]):
        place = j - len(schedule) + len(windows)
        window = windows[place] if place >= 0 else -1
        seen = np.ones((rows[k], rows[j]), dtype=bool)
        if j >= sinks:
            ahead = [rows[i] - Scale(schedule, i).tokens for i in (k, j)]
            seen[ahead[0] :, ahead[1] :] = near(schedule[k], grid, max(window, 1) if j == k else window)
        yield seen


def near(queries: Grid, keys: Grid, window: int) -> Mask:
    """Which tokens of one grid lie in the window around each token of another.

    The window is centred at the query's row and column times the ratio of the grids, rounded half to even.
    """
    sides = []
    for many, few in zip(queries, keys, strict=True):
        centres = np.rint(np.arange(many) / many * few)
        sides.append(abs(centres[:, None] - np.arange(few)) <= window // 2)
    both: Mask = sides[0][:, None, :, None] & sides[1][None, :, None, :]
    return both.reshape(queries[0] * queries[1], keys[0] * keys[1])
