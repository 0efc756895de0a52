"""Controls that every claim is compared with: what plain omission gives at the same time.

Published speed of this family comes largely from scales that are not run, and from guidance that is switched off, so
these are rows of every table. They compose: ``drop_last(1)+guidance_off(2)``. All count from the last scale that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from stagevar.accelerators.base import Accelerator, Facts, last_executed, single_branch
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError


@dataclass(frozen=True)
class DropLast(Accelerator):
    """The last n scales are not run: their codes are left out and the latent is decoded as it stands."""

    name: ClassVar[str] = "drop_last"
    owns: ClassVar[frozenset[str]] = frozenset({"run"})
    identity: ClassVar[Mapping[str, object] | None] = {"n": 0}
    n: int = 1

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        return plan.replace(last_executed(plan, self.n, self), run="skip")


@dataclass(frozen=True)
class GuidanceOff(Accelerator):
    """The last n scales run one branch: the prompt's (equal to guidance 1) or the null prompt's (guidance 0)."""

    name: ClassVar[str] = "guidance_off"
    owns: ClassVar[frozenset[str]] = frozenset({"branch"})
    identity: ClassVar[Mapping[str, object] | None] = {"n": 0}
    n: int = 1
    branch: Literal["cond", "null"] = "cond"

    def __post_init__(self) -> None:
        if self.branch not in ("cond", "null"):
            raise OptionError(f"guidance_off: branch must be 'cond' or 'null', not {self.branch!r}")

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        scales = last_executed(plan, self.n, self)
        return single_branch(plan, scales[0], self.branch) if scales else plan


@dataclass(frozen=True)
class ReuseLast(Accelerator):
    """The last n scales do not run the network: the head reads the upsampled last hidden states of the scale before."""

    name: ClassVar[str] = "reuse_last"
    owns: ClassVar[frozenset[str]] = frozenset({"run", "tokens"})
    identity: ClassVar[Mapping[str, object] | None] = {"n": 0}
    n: int = 1

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        return plan.replace(last_executed(plan, self.n, self), run="reuse", tokens=None)
