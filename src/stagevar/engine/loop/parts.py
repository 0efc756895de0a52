"""Which rows of a stream a part of a block processes, and what the others get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from stagevar.engine.grids.rows import Role, gather, gather_rope, scatter
from stagevar.engine.loop.stream import Stream
from stagevar.engine.plan.parts import PartContext, PartRows, rule_at


@dataclass(frozen=True, slots=True)
class Share:
    """The rows of a stream that one part processes: all, or those that the plan chooses.

    Attributes:
        stream: of one scale.
        x: (R, m, C) the rows.
        rope: their rotary factors, or None.
        aligned: whether row i of all branches of an image stands for the same positions.
        chosen: (R, m) which rows of the stream they are; None for all.
        others: (R, M, C) what the other rows get; None if there are none.
    """

    stream: Stream
    x: Tensor
    rope: Tensor | None
    aligned: bool
    chosen: Tensor | None = None
    others: Tensor | None = None

    @classmethod
    def of(cls, stream: Stream, layer: int, role: Role) -> Self:
        """The rows that the plan has the part of a layer process."""
        tokens = stream.tokens.shape[1]
        rule = rule_at(stream.work.plan.parts, layer, role, stream.work.call.model.depth)
        if rule is None or rule.count(tokens) == tokens:
            return cls(stream, stream.x, stream.rope, stream.aligned)
        return cls._some(stream, rule, layer, role)

    @classmethod
    def _some(cls, stream: Stream, rule: PartRows, layer: int, role: Role) -> Self:
        work, x, rows, tokens = stream.work, stream.x, stream.rows, stream.tokens
        cohort = work.cohort
        seen = PartContext((layer, role), cohort.latent, cohort.change, cohort.memory, work.before, cohort.detail)
        others = rule.others(tokens, rows, seen)
        index = rule.choose(tokens, rows, seen) + rows.ahead
        if rows.ahead:
            first = torch.arange(rows.ahead, device=x.device).expand(len(x), -1)
            index, others = torch.cat([first, index], 1), torch.cat([torch.zeros_like(x[:, : rows.ahead]), others], 1)
        work.show(f"chosen.{layer}.{role}", index)
        aligned = stream.aligned and rule.aligned
        return cls(stream, gather(x, index), gather_rope(stream.rope, index), aligned, index, others)

    @property
    def count(self) -> int:
        """How many rows there are of each branch."""
        return self.x.shape[1]

    def increment(self, own_RmC: Tensor) -> Tensor:
        """What the part adds to the stream (R, M, C), of what it makes of its rows."""
        if self.chosen is None or self.others is None:
            return own_RmC
        return scatter(self.others.to(own_RmC.dtype), self.chosen, own_RmC) if self.count else self.others
