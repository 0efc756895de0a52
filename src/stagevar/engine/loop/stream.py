"""The rows of one scale on their way through the blocks: reduced before a group of blocks, restored behind it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stagevar.engine.loop.foreign import check_reduced, is_foreign
from stagevar.engine.loop.scale_pass import Pass
from stagevar.engine.loop.segments import Segment, segments
from stagevar.engine.plan.parts import Rows
from stagevar.engine.plan.reads import Grouping
from stagevar.engine.plan.tokens import Reduced, TokenContext


class Stream:
    """The residual stream of one scale.

    Only tokens are reduced, restored and remembered, not the rows ahead of them.

    Attributes:
        work: the scale.
        x: (R, m, C) the rows at present.
        rope: their rotary factors, or None.
        rows: what they stand for.
        aligned: whether row i of all branches of an image stands for the same positions.
        processed: rows that parts have processed, in sum over parts and branches.
    """

    def __init__(self, work: Pass) -> None:
        model, cohort = work.call.model, work.cohort
        self.work, self.processed, self.aligned = work, 0, True
        self.x = model.embed(cohort.latent, cohort.condition, work.at)
        self.rope = self._rope = model.rope(work.at, cohort.condition)
        self.rows = self._rows = Rows(model.rows(work.at) - work.at.tokens, work.at.grid)
        self._grouped = {read.kind: read.sites for read in work.written if isinstance(read.sites, Grouping)}
        parts = list(segments(model, work.plan.tokens or next(iter(self._grouped.values()), None)))
        self._first = {part.layers.start: part for part in parts}
        self._last = {part.layers.stop - 1: part for part in parts}
        self._before: Tensor | None = None
        self._reduced: Reduced | None = None
        work.show("embed", self.x)

    @property
    def tokens(self) -> Tensor:
        """The rows behind those that lie ahead of the tokens."""
        return self.x[:, self.rows.ahead :]

    def enter(self, layer: int) -> None:
        """Reduce the rows, if a group of blocks begins with this one that the plan reduces them for."""
        part, rule = self._first.get(layer), self.work.plan.tokens
        if part is None or not part.reducible:
            return
        self._before = self.tokens
        if rule is None:
            return
        self._reduced = reduced = rule.reduce(self._before, self._context(part))
        if is_foreign(rule):
            check_reduced(rule, reduced, self._before)
        self.work.show(f"reduced.{part.group}", reduced.x)
        if reduced.index is not None:
            self.work.show(f"places.{part.group}", reduced.index)
        ahead = self.rows.ahead
        first = None if self._rope is None else self._rope[..., :ahead, :, :]
        self.rope = joined_rope([first, reduced.rope]) if ahead else reduced.rope
        self.x = joined([self.x[:, :ahead], reduced.x]) if ahead else reduced.x
        self.rows, self.aligned = Rows(ahead, reduced.grid or self.rows.grid, reduced.index), rule.aligned

    def leave(self, layer: int) -> None:
        """Restore the rows behind the last block of a group, and remember what later scales read of it."""
        part = self._last.get(layer)
        if part is None:
            return
        self._restore(part)
        for kind in self._grouped if part.reducible else ():
            assert self._before is not None
            own = self.tokens if kind == "hidden" else self.tokens - self._before
            self.work.cohort.memory.put(kind, part.group, self.work.k, own, self.work.at.grid)
        self._before = self._reduced = None
        self.work.show(f"group.{part.group}", self.x)

    def _restore(self, part: Segment) -> None:
        rule, reduced, before = self.work.plan.tokens, self._reduced, self._before
        if rule is None or reduced is None or before is None or rule.final:
            return
        restored = rule.restore(before, self.tokens, reduced, self._context(part))
        self.x = joined([self.x[:, : self.rows.ahead], restored]) if self.rows.ahead else restored
        self.rope, self.rows, self.aligned = self._rope, self._rows, True

    def _context(self, part: Segment) -> TokenContext:
        rope = None if self._rope is None else self._rope[..., self.rows.ahead :, :, :]
        return self.work.context(self.work.source("hidden", "increment", "watched"), part.group, rope)


def joined(rows: Sequence[Tensor], axis: int = 1) -> Tensor:
    """Rows one behind the other; a single tensor as it is."""
    return rows[0] if len(rows) == 1 else torch.cat(list(rows), axis)


def joined_rope(ropes: Sequence[Tensor | None]) -> Tensor | None:
    """Rotary factors (m, P, 2) or (R, m, P, 2) one behind the other."""
    given = [rope for rope in ropes if rope is not None]
    if len(given) < len(ropes):
        return None
    shape = torch.broadcast_shapes(*(rope.shape[:-3] for rope in given))
    return joined([rope.expand(*shape, *rope.shape[-3:]) for rope in given], -3)
