"""ToProVAR (ICLR 2026, arXiv 2602.22948): the entropy of attention says from which scale, in which blocks and at which
tokens less is needed.

Idea: a row of self-attention with low entropy looks at few places, and such tokens carry the picture. Three decisions
follow. The scale: pruning begins behind the first scale where enough tokens look at fewer places than the mean. The
blocks: where the map of entropies is close to one row times one column (two equal singular values say it is not), the
block arranges the whole picture and runs in full; the others work on detail. The tokens: those with the highest entropy
are left out first, the more the later the scale.

Claimed: 3.4x on Infinity-2B at equal GenEval. The table lists 11 of the 13 scales of one megapixel, so two seem to be
left out besides (``drop_last`` in the controls): by operations these alone give 3.1x.

No code was released. All here is made from the text of the paper, which leaves open what pruned tokens get, which
branch and which heads count, beta and the shares. Deviations, and why:

* The printed rule for tokens divides an entropy by the sum of all, which is about 1/N, so that nothing is pruned; here
  it is divided by the mean. Then a block prunes the mean of the printed shares, those of highest entropy and not by
  coins.
* The map is taken about its mean. As printed, the first singular value is the mean itself and far above the second.
* Rows are chosen by the entropies of the scale where pruning begins, the last one that attends with all rows. The paper
  takes each scale's own, for which its attention must be run first.
* The paper judges the blocks at one early scale, at 12x12; here it is the scale where pruning begins.
* What a pruned row gets is not said: here the same part's increment at the scale before, as in FastVAR.
* Entropies are means over heads and branches, of one block per group, relative to the logarithm of the number of keys.
* The paper judges each block alone. Here the first and the last group share one judgement and those between another,
  the means of theirs in quarters, and shares of rows are multiples of 1/16: judged alone, the six groups of the shipped
  model differ in every picture, and no two pictures of a batch share a pass.
* Before ``START`` of the final side no scale is watched, as small scales cost nothing. A picture decides once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from stagevar.accelerators.base import Accelerator, Claim, Facts, Reason
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.grids.rows import token_map
from stagevar.engine.plan.parts import PartRows, Sites
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.reads import Read
from stagevar.engine.plan.signals import Signal, Signals
from stagevar.engine.plan.watch import AttentionEntropy, Numbers, Seen
from stagevar.errors import OptionError

START = 0.19
"""Side of the first scale that is watched, relative to the final one: 16 of 64 is the first behind it."""

ITERATIONS = 16
"""Steps of power iteration per singular value."""

QUARTERS, STEPS = 4, 16
"""Judgements of blocks and shares of rows are multiples of one over these."""


@dataclass(frozen=True, slots=True)
class EntropyMap(AttentionEntropy):
    """Two numbers: the share of rows below the mean entropy, and the ratio of the first two singular values of the map
    about its mean."""

    ends: ClassVar[tuple[Numbers, Numbers]] = ((0.0, 100.0), (1.0, 1.0))
    typical: ClassVar[tuple[Numbers, ...]] = (
        (0.03125, 0.000, 1.000),
        (0.06250, 0.497, 15.068),
        (0.09375, 0.495, 2.348),
        (0.12500, 0.470, 2.005),
        (0.18750, 0.477, 2.220),
        (0.25000, 0.462, 2.202),
        (0.37500, 0.438, 2.104),
        (0.50000, 0.473, 1.688),
        (0.75000, 0.431, 1.708),
        (1.00000, 0.414, 1.815),
    )

    def numbers(self, seen: Seen) -> Tensor:
        assert seen.map is not None
        centred = seen.map - seen.map.mean(1, keepdim=True)
        ratio = singular_ratio(token_map(centred[..., None], seen.at.grid)[:, 0])
        return torch.stack([(centred < 0).float().mean(1), ratio], 1)


def singular_ratio(map_nhw: Tensor) -> Tensor:
    """First over second singular value (n,), at most 100, by power iteration: no device has to wait for it."""
    squares, values = map_nhw @ map_nhw.mT, list[Tensor]()
    for _ in range(2):
        vector = torch.arange(1.0, squares.shape[1] + 1, device=squares.device).cos()[None, :, None]
        for _ in range(ITERATIONS):
            vector = squares @ vector
            vector = vector / vector.norm(dim=1, keepdim=True).clamp(min=1e-20)
        value = vector.mT @ squares @ vector
        squares = squares - value * vector @ vector.mT
        values.append(value.flatten().clamp(min=0).sqrt())
    return (values[0] / values[1].clamp(min=1e-20)).clamp(1, 100)


@dataclass(frozen=True)
class ToProVAR(Accelerator):
    """Late scales process the rows whose attention is narrow, in blocks that work on detail.

    Combines with what decides branches or the cache: ``guidance_off``, ``scalekv``, ``drop_last``.

    Attributes:
        tau: share of the tokens that must look at fewer places than the mean before pruning begins.
        a_max: share of the rows that a block of detail prunes at the final scale.
        beta: how fast a block counts as one of arrangement with the ratio of singular values.
    """

    name: ClassVar[str] = "toprovar"
    owns: ClassVar[frozenset[str]] = frozenset({"parts"})
    online: ClassVar[bool] = True
    signals: ClassVar[frozenset[Signal]] = frozenset()
    citation: ClassVar[str] = "ToProVAR, ICLR 2026, arXiv 2602.22948"
    source: ClassVar[str] = "the paper's text"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("Infinity-2B, 1024x1024", 3.4, "GenEval .69 to .69, DPG 83.4 to 83.1"),
        Claim("Infinity-8B, 1024x1024", 2.7, "GenEval .83 to .83, DPG 86.7 to 86.7"),
        Claim("HART, 1024x1024", 1.7, "GenEval .51 to .51"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"a_max": 0.0}
    tau: float = 0.4
    a_max: float = 0.9
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.tau <= 1 and 0 <= self.a_max <= 1 and self.beta >= 0):
            raise OptionError(f"{self}: tau and a_max must lie in [0, 1], beta must be 0 or more")

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        watched = [k for k in plan.executed[:-1] if Scale(schedule, k).share >= START]
        if not watched:
            raise OptionError(f"{self}: the plan runs no two scales from {START} of the final side on")
        maps = tuple(EntropyMap((group + 0.5) / facts.groups) for group in range(facts.groups))
        for k in watched if self.a_max else ():
            kept = (Read("part", k, Sites()), *(Read("watched", k, each) for each in maps))
            plan = plan.replace([k], watch=plan[k].watch + maps)
            plan = plan.replace([plan.executed[plan.executed.index(k) + 1]], remember=kept)
        return plan

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        maps = [watch for watch in signals.watched if isinstance(watch, EntropyMap)]
        if not maps or self.reasons(plan, at, signals)[0].value < self.tau:
            return plan
        scales = list(plan.scales)
        for k in plan.executed:
            if k > at.k:
                rules = tuple(self._rules(maps, signals, at.k, Scale(at.schedule, k).share))
                watch = tuple(each for each in scales[k].watch if each not in maps)
                scales[k] = replace(scales[k], parts=rules, watch=watch, remember=())
        return Plan(tuple(scales))

    def reasons(self, plan: Plan, at: Scale, signals: Signals) -> tuple[Reason, ...]:
        """The share of rows of narrow attention, a mean over groups of blocks."""
        shares = [numbers[0] for watch, numbers in signals.watched.items() if isinstance(watch, EntropyMap)]
        return (Reason("rows of narrow attention", sum(shares) / len(shares), self.tau),) if shares else ()

    def _rules(self, maps: Sequence[EntropyMap], signals: Signals, source: int, share: float) -> Iterator[PartRows]:
        """The rule of each group of blocks that prunes, at a scale of a relative side."""
        details = [math.exp(-self.beta * (signals.watched[each][1] - 1)) for each in maps]
        ends, count = (0, len(maps) - 1), len(maps)
        for group, each in enumerate(maps):
            alike = [detail for other, detail in enumerate(details) if (other in ends) == (group in ends)]
            detail = round(sum(alike) / len(alike) * QUARTERS) / QUARTERS
            prune = math.floor(self.a_max * share * detail * STEPS) / STEPS
            if prune:
                layers = group / count, (group + 1) / count
                yield PartRows(prune, layers=layers, score=each, score_source=source)
