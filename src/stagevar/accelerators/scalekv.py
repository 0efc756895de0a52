"""ScaleKV: most blocks cache a tenth of the keys and values.

Idea: blocks differ in how much of the history they use. A few ("drafters") look everywhere and keep nearly all of it;
the others ("refiners") keep a small budget that falls with the scale. After the self-attention of a scale a block keeps
16 tokens of that scale, the middles of a 4 x 4 grid, and the entries with the largest products with these tokens'
queries, per head and branch; an entry shares the vote of its best neighbour.

No time is gained: others measured between none and a loss of a third. The current scale's own keys are live beside the
cache, so the peak falls less.

What the released code does for Infinity-2B, and the defaults here: from 20x20 on, once more than 650 entries are
cached, the mean over blocks is 650 entries (10.1% of all before the last scale). Drafters are the first block and the
24th of 32; before the last scale the first one alone.

Deviations: budgets are shares of the history before the last scale, blocks shares of the depth, so that every size and
depth works; drafters keep 99.38% at every scale (published: 98.8% to 99.9%), which gives the refiners' published
budgets of 632, 594, 526, 420 and 465; a budget has at least ``LEAST`` entries; nothing is dropped behind the last
scale, since nothing reads it; of equal votes the older entry stays. Votes are as in the code: products with the bare
projection of the queries, without softmax (the paper says otherwise). ``table`` takes budgets of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from stagevar.accelerators.base import Accelerator, Claim, Facts
from stagevar.engine.grids.grid import Schedule, scales
from stagevar.engine.plan.evict import WindowVotes
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError

DRAFTED = 0.9938
"""Share of the history that a drafter keeps."""

LEAST = 32
"""Entries of the smallest budget: twice the window."""


@dataclass(frozen=True)
class ScaleKV(Accelerator):
    """Most blocks cache few keys and values, chosen by the votes of a few queries; no scale or row is left out.

    Combines with what decides other axes: ``drop_last``, ``guidance_off``, ``fastvar``, ``sparvar``.

    Attributes:
        budget: entries that a block keeps in the mean, as a share of all tokens before the last scale.
        drafters: blocks that keep nearly all, as shares of the depth; before the last scale ``last_drafters``.
        after: nothing is dropped before more entries than this are cached; 0 takes the mean budget.
        table: in place of the budget, entries that each block keeps behind each of the last scales of the schedule.
        cells, pool: see ``WindowVotes``.
    """

    name: ClassVar[str] = "scalekv"
    owns: ClassVar[frozenset[str]] = frozenset({"cache"})
    citation: ClassVar[str] = "ScaleKV, NeurIPS 2025, arXiv 2505.19602"
    source: ClassVar[str] = "StargazerX0/ScaleKV"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("Infinity-2B, 1024x1024, a tenth of the cache", None, "FID 2.53, PSNR 22.6 to the plain run"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"budget": 1.0, "drafters": ()}
    budget: float = 0.1012
    drafters: tuple[float, ...] = (0.0, 23 / 32)
    last_drafters: tuple[float, ...] = (0.0,)
    after: int = 0
    table: tuple[tuple[int, ...], ...] = ()
    cells: int = 4
    pool: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise OptionError(f"scalekv: budget must lie in (0, 1], not {self.budget}")
        shares = (*self.drafters, *self.last_drafters)
        if not all(isinstance(share, int | float) and 0 <= share < 1 for share in shares):
            raise OptionError(f"scalekv: drafters must be shares of the depth in [0, 1), not {shares}")
        for row in self.table or ((LEAST,),):
            WindowVotes(row, self.cells, self.pool)

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        if not facts.causal:
            raise OptionError("scalekv drops cached keys, but this model attends within a scale only and caches none")
        if any(len(row) != facts.depth for row in self.table):
            raise OptionError(f"scalekv: the table must have one number for each of the {facts.depth} blocks")
        held = tuple(accumulate(at.tokens for at in scales(schedule)))
        history = held[-2] if len(held) > 1 else 0
        mean = round(self.budget * history)
        for k in range(len(schedule) - 1):
            row = self._row(k, len(schedule), held[k], mean, facts.depth)
            if row is not None and held[k] > (self.after or (0 if self.table else mean)):
                plan = plan.replace([k], cache=WindowVotes(row, self.cells, self.pool))
        return plan

    def _row(self, k: int, count: int, held: int, mean: int, depth: int) -> tuple[int, ...] | None:
        """Entries that each block keeps behind scale k of ``count``, where ``held`` would be cached in all."""
        if self.table:
            place = k - count + len(self.table)
            return self.table[place] if place >= 0 else None
        drafters = {round(share * depth) for share in (self.last_drafters if k == count - 2 else self.drafters)}
        most = max(LEAST, int(DRAFTED * held))
        rest = (depth * mean - len(drafters) * most) // max(1, depth - len(drafters))
        return tuple(most if layer in drafters else max(LEAST, rest) for layer in range(depth))
