"""NOVA (arXiv 2602.01345): pruning begins when the entropy of what is predicted stops growing.

Idea: tokens whose prediction is certain need no more work. The entropy of a scale grows while structure is laid out;
where its growth falls below that of the early scales, pruning begins. From there on each scale has a share that grows
with the scale and shrinks with the entropy's growth, and each group of blocks more of it where its own entropy is below
that of the groups before it. Pruned tokens take the increment of the scale before.

Claimed: 2.9x on Infinity-2B, GenEval .73 to .72.

The source is a note about the paper, made by a machine, and neither its text nor code: its formulas are second-hand.
What it leaves open is decided here:

* Of which distribution entropies are taken. Of a scale and its tokens: of the guided codes at temperature 1, which
  exist without further work. Of a group of blocks, which has no codes: of self-attention of its middle block.
* The growth that begins pruning is smoothed as in the note, over two scales, but the two last ones: the note's next
  scale would have to be drawn first. The early scales are those below ``START`` of the final side. Growth counts by its
  size: on the shipped model entropy falls from scale to scale at first.
* The note's share, sigmoid(rho (t0 + 1)/t - lambda tanh(growth)) at scale t where pruning began behind t0, falls with t
  for positive rho, against its own words. Here the fraction is turned round, so that it grows.
* How blocks change the share: the share times 1 - mu (entropy / mean of the groups before - 1), between 0 and ``MOST``.
* Groups of blocks are judged once, where pruning begins: later not all rows attend. Shares are multiples of 1/16, so
  that the pictures of a batch share passes.

Certain tokens are pruned here and those of wide attention in ``toprovar``: two entropies, which need not agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from stagevar.accelerators.base import Accelerator, Claim, Facts, Reason
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.plan.parts import PartRows, Sites
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.reads import Read
from stagevar.engine.plan.signals import Signal, Signals
from stagevar.engine.plan.watch import AttentionEntropy, CodeEntropy
from stagevar.errors import OptionError

START = 0.4
"""Side of the first scale that is not early, relative to the final one. Scales before it are a small part of the work,
and none of them begins pruning."""

MOST = 0.9
"""Largest share of the rows that is pruned."""

STEPS = 16
"""Shares are multiples of one over this."""

CODES = CodeEntropy()


@dataclass(frozen=True)
class NOVA(Accelerator):
    """Once the entropy of the codes stops growing, scales process the uncertain rows, part by part.

    Combines with what decides branches or the cache: ``guidance_off``, ``scalekv``, ``drop_last``.

    Attributes:
        rho: how much is pruned, and how fast it grows with the scale.
        lam: how much a growing entropy of codes holds pruning back.
        mu: how much a group of blocks with wider attention than the groups before it holds pruning back.
    """

    name: ClassVar[str] = "nova"
    owns: ClassVar[frozenset[str]] = frozenset({"parts"})
    online: ClassVar[bool] = True
    signals: ClassVar[frozenset[Signal]] = frozenset()
    citation: ClassVar[str] = "NOVA, arXiv 2602.01345"
    source: ClassVar[str] = "notes on the paper"
    claims: ClassVar[tuple[Claim, ...]] = (Claim("Infinity-2B", 2.9, "GenEval .73 to .72, DPG 83.1 to 82.7"),)
    rho: float = 1.0
    lam: float = 1.0
    mu: float = 1.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in (self.rho, self.lam, self.mu)):
            raise OptionError(f"{self}: rho, lam and mu must be 0 or more")

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        ran = plan.executed
        first = max(2, sum(Scale(schedule, k).share < START for k in ran))
        if len(ran) < first + 2:
            raise OptionError(
                f"{self}: the plan runs {len(ran)} scales, and {first + 2} are needed to begin and to prune"
            )
        blocks = tuple(AttentionEntropy((group + 0.5) / facts.groups) for group in range(facts.groups))
        for place, (k, later) in enumerate(pairwise(ran)):
            if place < first:
                plan = plan.replace([k], watch=(*plan[k].watch, CODES))
            else:
                plan = plan.replace([k], watch=(*plan[k].watch, CODES, *blocks))
                plan = plan.replace([later], remember=(Read("part", k, Sites()), Read("watched", k, CODES)))
        return plan

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        history = _history(signals)
        judged = next((place for place in reversed(range(len(history))) if _widths(history[place])), None)
        later = [k for k in plan.executed if k > at.k]
        if judged is None or not later or (judged == len(history) - 1 and not _begins(history)):
            return plan
        scales = list(plan.scales)
        for k in later:
            watch = tuple(each for each in scales[k].watch if type(each) is not AttentionEntropy)
            scales[k] = replace(scales[k], watch=watch)
        rules = tuple(self._rules(history, judged))
        scales[later[0]] = replace(scales[later[0]], parts=rules, remember=())
        return Plan(tuple(scales))

    def reasons(self, plan: Plan, at: Scale, signals: Signals) -> tuple[Reason, ...]:
        """The entropy of the codes, and how much it has grown over two scales."""
        history = [each.watched for each in _history(signals) if CODES in each.watched]
        if CODES not in signals.watched:
            return ()
        codes = Reason("entropy of the codes", _codes(signals))
        if len(history) < 3:
            return (codes,)
        return codes, Reason("its change over two scales", history[-1][CODES][0] - history[-3][CODES][0])

    def _rules(self, history: Sequence[Signals], judged: int) -> Iterator[PartRows]:
        """The rule of each group of blocks that prunes at the next scale."""
        growth = _codes(history[-1]) - _codes(history[-2])
        share = 1 / (1 + math.exp(self.lam * math.tanh(growth) - self.rho * (len(history) + 1) / (judged + 2)))
        widths = _widths(history[judged])
        for group, width in enumerate(widths):
            usual = sum(widths[:group]) / group if group else width
            factor = 1 - self.mu * (width / usual - 1) if usual else 1.0
            prune = math.floor(min(max(share * factor, 0), MOST) * STEPS) / STEPS
            if prune:
                yield PartRows(prune, layers=(group / len(widths), (group + 1) / len(widths)), score=CODES)


def _history(signals: Signals) -> list[Signals]:
    """The signals of all scales that ran, in order."""
    return [*(_history(signals.before) if signals.before else ()), signals]


def _codes(signals: Signals) -> float:
    """Entropy of the codes of a scale."""
    return signals.watched[CODES][0]


def _widths(signals: Signals) -> list[float]:
    """Entropy of attention of each group of blocks, if the scale was watched for it."""
    return [numbers[0] for watch, numbers in signals.watched.items() if type(watch) is AttentionEntropy]


def _begins(history: Sequence[Signals]) -> bool:
    """Whether the entropy of the codes changed no more over the last two scales than, in the mean, from one early scale
    to the next."""
    early = next(place for place, each in enumerate(history) if _widths(each))
    usual = sum(abs(_codes(b) - _codes(a)) for a, b in pairwise(history[: early + 1])) / early
    return abs(_codes(history[-1]) - _codes(history[-3])) / 2 <= usual
