"""How the blocks of a network are divided: runs of layers on all rows, and groups on reduced rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.plan.memory import LAST
from stagevar.engine.plan.reads import Grouping
from stagevar.engine.plan.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive blocks between two points where rows may be reduced and restored."""

    group: int
    layers: range
    reducible: bool


def segments(model: ScaleModel, tokens: Tokens | Grouping | None) -> Iterator[Segment]:
    """The blocks in groups: one if nothing is reduced; else the dense ends, and between them one or all groups."""
    depth = model.depth
    if tokens is None:
        yield Segment(0, range(depth), False)
        return
    first, end = math.ceil(tokens.dense[0] * depth), depth - math.ceil(tokens.dense[1] * depth)
    size = depth // model.groups if tokens.scope == "group" else depth
    if first:
        yield Segment(LAST, range(first), False)
    for group, start in enumerate(range(0, depth, size)):
        layers = range(max(start, first), min(start + size, end))
        if layers:
            yield Segment(group, layers, True)
    if end < depth:
        yield Segment(LAST, range(end, depth), False)
