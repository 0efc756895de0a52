"""Plans that ``stagevar search`` has found, one for all pictures or a choice per picture.

Idea: what each late scale runs is found by evolution under a budget of operations instead of being set by one global
ratio, as Diff-ES does for the stages of diffusion models. A search writes a few plans of different budgets to a file.
The cheapest that reaches the wanted SSIM is drawn; with a choice per picture the signals of the last scale before the
plans part say for which plan that holds.

Limits: plans and choice hold for the model and the kind of captions that were searched on, and a file is refused by
other models. Scales are addressed by their relative side, so that it can be used at another size, and the shipped plan
by another model; then the wanted SSIM is a wish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from stagevar.accelerators.base import FILE, Accelerator, Facts, Reason
from stagevar.engine.grids.grid import Scale, Schedule, scales
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import Signals
from stagevar.errors import OptionError
from stagevar.plans import FoundPlans, applied
from stagevar.saved import read_once

SHIPPED = Path(__file__).with_suffix(".json")
CHOSEN = (0, 3, 5, 7)
"""Entries of a picture's ``support`` that are among its numbers."""


def numbers(signals: Signals) -> tuple[float, ...]:
    """The numbers of a picture by which it chooses; flips of one branch alone count as none."""
    bands = signals.low, signals.middle, signals.high
    return signals.flips or 0.0, signals.confidence, *bands, *(signals.support[place] for place in CHOSEN)


@dataclass(frozen=True)
class Planned(Accelerator):
    """Late scales run what a search has found for a budget of operations.

    Attributes:
        file: plans that ``stagevar search`` wrote; empty for the one of the shipped model.
        target: SSIM to the plain run, which the cheapest plan has to reach; 0 takes the fastest plan, 1 the plain run.
        each: whether every picture chooses among the plans by its signals.
    """

    name: ClassVar[str] = "planned"
    owns: ClassVar[frozenset[str]] = frozenset({"run", "branch", "tokens", "parts", "cache"})
    online: ClassVar[bool] = True
    citation: ClassVar[str] = "after the stage-wise search of Diff-ES"
    source: ClassVar[str] = "notes on the paper"
    identity: ClassVar[Mapping[str, object] | None] = {"target": 1.0}
    file: str = field(default="", metadata=FILE)
    target: float = 0.9
    each: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.target <= 1:
            raise OptionError(f"planned: target must be an SSIM in [0, 1], not {self.target}")

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        found = self._found()
        if self.file:
            found.require(facts.model)
        if self.each and found.chooser is None:
            raise OptionError(
                f"{self}: the file has one plan and no choice; search for several budgets, or leave out each"
            )
        return plan if self.each else self._applied([each.ssim for each in found.plans], plan, schedule)

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        expected = self.reasons(plan, at, signals) if self.each else ()
        return self._applied([each.value for each in expected], plan, at.schedule) if expected else plan

    def reasons(self, plan: Plan, at: Scale, signals: Signals) -> tuple[Reason, ...]:
        """The SSIM that each plan is expected to reach, behind the scale that decides; without a choice, behind the
        first scale, the mean that each has reached."""
        if at.k != (self._decides(at.schedule) if self.each else 0):
            return ()
        found = self._found()
        expected = [each.ssim for each in found.plans]
        if self.each:
            assert found.chooser is not None
            expected = found.chooser.expected(numbers(signals))
        plans = zip(found.plans, expected, strict=True)
        return tuple(Reason(f"SSIM by operations / {each.fewer:.2f}", value, self.target) for each, value in plans)

    def _found(self) -> FoundPlans:
        return read_once(FoundPlans.load, Path(self.file) if self.file else SHIPPED)

    def _applied(self, expected: list[float], plan: Plan, schedule: Schedule) -> Plan:
        """The fastest of the plans that reach the target; the plan as it is if none does."""
        reach = [each for each, ssim in zip(self._found().plans, expected, strict=True) if ssim >= self.target]
        return (
            applied(max(reach, key=lambda each: each.fewer).late, plan, schedule) if reach and self.target < 1 else plan
        )

    def _decides(self, schedule: Schedule) -> int:
        """The last scale before the plans part."""
        first = min(late.share for each in self._found().plans for late in each.late)
        early = [at.k for at in scales(schedule)[1:] if at.share < first - 1e-6]
        return early[-1] if early else 0
