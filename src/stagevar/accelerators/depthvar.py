"""DepthVAR: at late scales every token runs, but through its own number of blocks.

Idea: leaving tokens out is all or nothing. Here a token's depth follows how much the blocks changed it at the scale
before: tokens are ranked by it, and the rank sets the share of the blocks that process them. From scale to scale ranks
turn a little further, so that no place starves. The blocks are taken in one order: the first, the one at 1/2 of the
network, at 1/4, at 3/4 and so on, so that any few of them are spread evenly. Where a block does not process a token, it
adds what the same block added there at the scale before, upsampled. Codes count in proportion to their token's depth.

The source is a description of the paper; no code was found. It says that ranks become depths by a schedule and gives
two settings, R=9 and R=7, but not what R means. Our choices: the share of blocks is a power of the rank, whose mean
over the tokens is given scale by scale. Shares of .5 and .3 at the last four scales take 1/2.0 and 1/3.0 of the
operations of Infinity-2B, near the two claims. Ranks turn by a quarter of the tokens at every scale. A token's change
is that of the stream over all blocks, squared, as a mean over channels and branches, where the paper sums absolute
changes block by block; so both branches of a picture run the same rows. A depth is rounded to the nearest whole block.
Keys are cached of the rows that ran.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stagevar.accelerators.base import Accelerator, Claim, Facts, last_executed
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import ranked
from stagevar.engine.plan.tokens import TokenContext
from stagevar.engine.plan.watch import Activity
from stagevar.errors import OptionError


@dataclass(frozen=True, slots=True)
class Turned(Activity):
    """How much blocks change each token, by whose rank tokens get their depth.

    Attributes:
        turn: share of all ranks by which tokens move up; those at the top go to the bottom.
    """

    layers: tuple[float, float] = (0.0, 1.0)
    turn: float = 0.0

    def scores(self, map_nM: Tensor) -> Tensor:
        """The turned ranks of tokens (n, M) as shares in (0, 1)."""
        M = map_nM.shape[1]
        return ((ranked(map_nM) + round(self.turn * M)) % M + 0.5) / M


@dataclass(frozen=True, slots=True)
class ByDepth:
    """Codes count in proportion to the share of the blocks that process their token.

    Attributes:
        order: the watch that ranks the tokens.
        prunes: share of the tokens that each block leaves out, those of lowest rank.
        source: see ``stagevar.engine.plan.gain.Gain``.
    """

    order: Turned
    prunes: tuple[float, ...]
    source: int | None = None

    @property
    def needs(self) -> tuple[Turned, ...]:
        return (self.order,)

    def __call__(self, context: TokenContext, /) -> Tensor:
        M = context.grid[0] * context.grid[1]
        rank = self.order.scores(context.watched(self.order)) * M
        processed = [(rank > math.floor(M * prune)).to(rank.dtype) for prune in self.prunes]
        return torch.stack(processed).mean(0)


def spread_order(depth: int) -> list[int]:
    """All blocks, such that the first few are spread evenly: by the digits of their index in base 2, read backwards."""
    digits = max(1, (depth - 1).bit_length())
    backwards = (int(f"{place:0{digits}b}"[::-1], 2) for place in range(2**digits))
    return [block for block in backwards if block < depth]


def left_out(share: float, depth: int) -> tuple[float, ...]:
    """Shares of the tokens that blocks leave out, in their order, if a token runs through ``share`` of ``depth`` blocks
    in the mean: number i processes those whose depth rounds to more than i blocks."""
    return tuple(((number + 0.5) / depth) ** (share / (1 - share)) for number in range(depth))


@dataclass(frozen=True)
class DepthVAR(Accelerator):
    """Late scales run tokens through more or fewer blocks, by how much the scale before changed them.

    Combines with what decides other axes: ``drop_last``, ``guidance_off``, ``sparvar``, ``scalekv``.

    Attributes:
        depth: mean share of the blocks that process a token, at each of the last scales that run, first to last.
        turn: share of the ranks by which tokens move up from one of these scales to the next.
        blend: whether codes count in proportion to the depth of their token.
    """

    name: ClassVar[str] = "depthvar"
    owns: ClassVar[frozenset[str]] = frozenset({"parts", "gain"})
    citation: ClassVar[str] = "Li, Cao and Zhao, DepthVAR, CVPR 2026 Findings, arXiv 2604.17286"
    source: ClassVar[str] = "notes on the paper"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("Infinity-2B, 1024x1024, R=9", 1.7, "GenEval .724 to .732, HPSv2 30.5 to 30.3"),
        Claim("Infinity-2B, 1024x1024, R=7", 3.1, "GenEval .724 to .721, HPSv2 30.5 to 30.0"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"depth": (1.0, 1.0)}
    depth: tuple[float, ...] = (0.5, 0.5, 0.5, 0.5)
    turn: float = 0.25
    blend: bool = True

    def __post_init__(self) -> None:
        if not all(isinstance(share, int | float) and 0 < share <= 1 for share in self.depth):
            raise OptionError(f"depthvar: depth must be a tuple of shares in (0, 1], not {self.depth}")
        if not 0 <= self.turn < 1:
            raise OptionError(f"depthvar: turn must lie in [0, 1), not {self.turn}")

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        late = last_executed(plan, len(self.depth), self)
        before = plan.executed[-len(late) - 1 : -1]
        for number, (k, share, source) in enumerate(zip(late, self.depth, before, strict=True)):
            if share < 1:
                order = Turned(turn=number * self.turn % 1)
                plan = plan.replace([source], watch=(*plan[source].watch, order))
                prunes = left_out(share, facts.depth)
                rules = tuple(
                    PartRows(prune, layers=(block / facts.depth, (block + 1) / facts.depth), score=order)
                    for prune, block in zip(prunes, spread_order(facts.depth), strict=True)
                )
                plan = plan.replace([k], parts=rules, gain=ByDepth(order, prunes) if self.blend else None)
        return plan
