"""Where queries and keys stand in the whole sequence, and what may be made of it: attention patterns and evictions.

The whole sequence is all rows of all scales in order, whether or not they ran: tokens in raster order behind the rows
ahead of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stagevar.engine.grids.grid import Scale
from stagevar.engine.plan.memory import MapKind, Memory
from stagevar.engine.plan.parts import Layers, blocks

Runs = tuple[tuple[int, int], ...]
"""Consecutive places, from the first to behind the last."""

Places = Runs | Tensor
"""Places of rows in the whole sequence: runs where they are known from grids alone, else int64 (R or 1, H or 1, L)."""


def count(places: Places) -> int:
    """How many rows there are."""
    return places.shape[-1] if isinstance(places, Tensor) else sum(end - start for start, end in places)


def as_tensor(places: Places, device: torch.device) -> Tensor:
    """The places as int64 (R or 1, H or 1, L)."""
    if isinstance(places, Tensor):
        return places
    return torch.cat([torch.arange(start, end, device=device) for start, end in places])[None, None]


def joined(first: Places, second: Places) -> Places:
    """The places of the first rows, then those of the second."""
    if not count(first) or not count(second):
        return first if count(first) else second
    if not isinstance(first, Tensor) and not isinstance(second, Tensor):
        if first[-1][1] == second[0][0]:
            return (*first[:-1], (first[-1][0], second[0][1]), *second[1:])
        return first + second
    device = next(part.device for part in (first, second) if isinstance(part, Tensor))
    a, b = as_tensor(first, device), as_tensor(second, device)
    shape = torch.broadcast_shapes(a.shape[:2], b.shape[:2])
    return torch.cat([part.expand(*shape, -1) for part in (a, b)], 2)


@dataclass(frozen=True, slots=True)
class Look:
    """What a pattern or an eviction may see.

    Attributes:
        at: the scale.
        layer, depth: index of the block, and how many there are.
        rows: length of each scale in the whole sequence.
        queries, keys: places of the rows that attend and of those that they attend to.
        memory: maps of earlier scales.
    """

    at: Scale
    layer: int
    depth: int
    rows: tuple[int, ...]
    queries: Places
    keys: Places
    memory: Memory

    @property
    def start(self) -> int:
        """Place of the scale's first row."""
        return sum(self.rows[: self.at.k])


class Pattern(Protocol):
    """Which keys queries attend to in some blocks.

    A call is self-attention of rows (R, H, m, D) over keys and values (R, H, L, D). ``products`` is how many products
    of two vectors a head takes for it: 2 m L if every row attends to every key.
    """

    @property
    def layers(self) -> Layers: ...
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, /, *, scale: float, look: Look) -> Tensor: ...
    def products(self, look: Look) -> int: ...

    @property
    def needs(self) -> tuple[tuple[MapKind, int], ...]:
        """Kinds of maps that it reads, each with the scale whose pattern in the same blocks left it."""
        ...

    @property
    def leaves(self) -> tuple[MapKind, ...]:
        """Kinds of maps that it leaves to later scales."""
        ...


def pattern_at(patterns: tuple[Pattern, ...], layer: int, depth: int) -> Pattern | None:
    """The first pattern that holds for a block."""
    return next((pattern for pattern in patterns if layer in blocks(pattern.layers, depth)), None)


class Evict(Protocol):
    """Which entries of a block's cache stay, asked behind the attention of every scale but the last that runs.

    ``capacity`` is how many may stay at most. ``voters`` are the rows of the scale whose bare queries ``keep`` reads:
    their projections before bias, norm and rotation, (R, H, voters, D). ``keep`` yields the slots (R, H, capacity) that
    stay, ascending, of keys (R, H, L, D), the last of which are the scale's own.
    """

    def capacity(self, at: Scale, rows: tuple[int, ...], layer: int) -> int: ...
    def voters(self, look: Look) -> tuple[int, ...]: ...
    def keep(self, keys: Tensor, queries: Callable[[], Tensor], look: Look) -> Tensor: ...
