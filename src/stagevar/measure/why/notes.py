"""What an accelerator was told of one picture, and by what it decided."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from stagevar.accelerators.base import Accelerator, Facts, Reason
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.engine.plan.signals import Signals


@dataclass(frozen=True, slots=True)
class Note:
    """One question to an accelerator.

    Attributes:
        signals: what the picture showed at the scale.
        reasons: the numbers that decided.
        revised: whether the answer runs anything otherwise than the plan before it.
    """

    signals: Signals
    reasons: tuple[Reason, ...]
    revised: bool


@dataclass(frozen=True)
class Noting(Accelerator):
    """Plans as another accelerator does, for the run of one picture, and takes notes.

    Attributes:
        own: the other one.
        notes: by scale. Before a picture is drawn an accelerator is asked about made-up ones; the notes of scales that
            run are written over then.
    """

    name: ClassVar[str] = "noting"
    online: ClassVar[bool] = True
    own: Accelerator
    notes: dict[int, Note] = field(default_factory=dict, compare=False)

    @property
    def owns(self) -> frozenset[str]:  # type: ignore[override]
        return self.own.owns

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        return self.own.plan(plan, schedule, facts)

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        answer = self.own.revise(plan, at, signals) if self.own.online else plan
        reasons = self.own.reasons(plan, at, signals) if self.own.online else ()
        self.notes[at.k] = Note(signals, reasons, _runs(answer) != _runs(plan))
        return answer

    def __str__(self) -> str:
        return str(self.own)


def _runs(plan: Plan) -> list[ScalePlan]:
    """A plan without its labels."""
    return [replace(scale, stage=None) for scale in plan]
