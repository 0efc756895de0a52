"""What an accelerator is: a frozen dataclass that makes plans before the loop and may revise them between scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.grids.rows import Branch
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.engine.plan.signals import SIGNALS, Signal, Signals
from stagevar.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

AXES = tuple(ScalePlan.__dataclass_fields__)
"""What an accelerator can own: the fields of a scale's plan."""

FILE = {"file": True}
"""Metadata of a setting that names a file of this machine; requests from elsewhere may not give it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What an accelerator may know of a model.

    Attributes:
        depth: number of transformer blocks.
        groups: number of groups that the blocks are divided into; rows are reduced group by group.
        causal: whether later scales attend to earlier ones.
        shared_codes: whether a code means the same at every scale.
        model: its name, which says whether fitted numbers are for it.
        folder: where it lies, if in a folder of its own, in which fitted numbers may lie too.
        detail: (h, w) where the picture that the image begins with has contrast, if there is one.
        restores: whether it draws no picture but the one that it is given.
    """

    depth: int
    groups: int
    causal: bool
    shared_codes: bool = True
    model: str = ""
    folder: Path | None = None
    detail: Tensor | None = field(default=None, repr=False, compare=False)
    restores: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """What is published of a method on one model.

    Attributes:
        on: model and picture size, such as ``Infinity-2B, 1024x1024``.
        speedup: how many times faster than the plain run; None where no gain is claimed.
        quality: the published figures, before and after or to the plain run.
    """

    on: str
    speedup: float | None
    quality: str


@dataclass(frozen=True, slots=True)
class Reason:
    """A number that a plan was revised by.

    Attributes:
        about: what it is a number of.
        value: as it was measured of the picture.
        bound: what it was held against; None if it was used as it is.
    """

    about: str
    value: float
    bound: float | None = None

    @property
    def met(self) -> bool:
        """Whether the value is not above the bound."""
        return self.bound is None or self.value <= self.bound


@dataclass(frozen=True)
class Accelerator:
    """Base of all accelerators. The fields of a subclass are its settings in Python and on the command line.

    Class attributes:
        name: what users write.
        owns: axes of the plan that it decides (``run``, ``branch``, ``tokens``); two of a sum may not decide the same.
        online: whether ``revise`` decides anything.
        signals: what ``revise`` reads of ``Signals`` besides what its plans watch. What no accelerator of a batch reads
            is not measured.
        citation: authors, title, venue and arXiv number of the publication; empty for a method of one's own.
        source: what the file follows: a repository ``owner/name``, ``the paper's text``, or ``notes on the paper``.
        claims: what is published, a row of the catalogue each.
        identity: settings at which every picture has the bits of the plain run; None if there are none.
    """

    name: ClassVar[str] = ""
    owns: ClassVar[frozenset[str]] = frozenset()
    online: ClassVar[bool] = False
    signals: ClassVar[frozenset[Signal]] = SIGNALS
    citation: ClassVar[str] = ""
    source: ClassVar[str] = ""
    claims: ClassVar[tuple[Claim, ...]] = ()
    identity: ClassVar[Mapping[str, object] | None] = None

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        """The plan to start with. Must be a pure function.

        Args:
            plan: the plain run's, or in a sum that of the accelerators to the left.
            schedule: grids of the scales.
            facts: of the model.
        """
        return plan

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        """One picture's plan after scale ``at`` has run, of scales that share a pass the last; only later scales may
        differ. Must be a pure function: it is also asked about two made-up pictures before anything is drawn.

        Args:
            plan: the picture's plan so far.
            at: the scale that has just run.
            signals: what was measured of this picture there.
        """
        return plan

    def reasons(self, plan: Plan, at: Scale, signals: Signals) -> tuple[Reason, ...]:
        """What ``revise`` decides by, with the same arguments. It is shown to people (``stagevar why``)."""
        return ()

    def __str__(self) -> str:
        """The text that ``stagevar.registry.parse`` reads back; defaults are left out."""
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return self.name + (f"({', '.join(shown)})" if shown else "")

    def __add__(self, other: Accelerator) -> Accelerator:
        return Sum(_parts(self) + _parts(other))


@dataclass(frozen=True)
class Nothing(Accelerator):
    """The plain run."""

    name: ClassVar[str] = "none"
    identity: ClassVar[Mapping[str, object] | None] = {}


@dataclass(frozen=True)
class Sum(Accelerator):
    """Several accelerators, applied from left to right.

    Raises:
        OptionError: two of them own the same axis; names both.
    """

    name: ClassVar[str] = "sum"
    parts: tuple[Accelerator, ...] = ()

    def __post_init__(self) -> None:
        owner: dict[str, Accelerator] = {}
        for part in self.parts:
            for axis in part.owns:
                if axis in owner:
                    raise OptionError(f"{owner[axis]} and {part} cannot be combined: both decide the axis {axis!r}")
                owner[axis] = part

    @property
    def owns(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset[str]().union(*(part.owns for part in self.parts))

    @property
    def online(self) -> bool:  # type: ignore[override]
        return any(part.online for part in self.parts)

    @property
    def signals(self) -> frozenset[Signal]:  # type: ignore[override]
        return frozenset[Signal]().union(*(part.signals for part in self.parts if part.online))

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        for part in self.parts:
            plan = part.plan(plan, schedule, facts)
        return plan

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        for part in self.parts:
            plan = part.revise(plan, at, signals)
        return plan

    def reasons(self, plan: Plan, at: Scale, signals: Signals) -> tuple[Reason, ...]:
        return tuple(reason for part in self.parts for reason in part.reasons(plan, at, signals))

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))


def _parts(accelerator: Accelerator) -> tuple[Accelerator, ...]:
    return accelerator.parts if isinstance(accelerator, Sum) else (accelerator,)


def last_executed(plan: Plan, count: int, who: object) -> tuple[int, ...]:
    """The last ``count`` scales that run.

    Raises:
        OptionError: fewer run, or none would be left before them.
    """
    runs = len(plan.executed)
    if not 0 <= count < runs:
        raise OptionError(f"{who}: the plan runs {runs} scales, so 0 to {runs - 1} can be named")
    return plan.executed[runs - count :]


def single_branch(plan: Plan, first: int, branch: Branch) -> Plan:
    """The plan with one branch alone from scale ``first`` on. Where one runs alone already, as some models end guidance
    early, that one stays: a dropped branch cannot come back."""
    return plan if plan[first].branch != "both" else plan.replace(range(first, len(plan)), branch=branch)
