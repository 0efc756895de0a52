"""Plans of late scales as a search has found them: what they hold, how they are applied, and the file they are kept in.

Scales are addressed by their side relative to the final one, so that a plan means the same at every picture size and on
every schedule.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stagevar.engine.grids.grid import Scale, Schedule, check_schedule, scales
from stagevar.engine.plan.evict import Recent
from stagevar.engine.plan.local import Local
from stagevar.engine.plan.parts import Layers, PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.errors import OptionError, quoted
from stagevar.files import replacing
from stagevar.saved import read_saved

FORMAT = "stagevar plans 2"
LEVELS = 16
"""Steps in which rows are counted, so that pictures of a batch share passes."""
SINK, LATEST = 1 / 8, 2
"""Largest side of the first scales that a thin history keeps, relative to the final one, and how many latest scales."""


@dataclass(frozen=True, slots=True)
class LateScale:
    """What one late scale runs.

    Attributes:
        share: its side relative to the final one.
        rows: positions of highest contrast that run, in sixteenths; the others add no codes. At 0 the scale is skipped.
        single: whether the prompt's branch runs alone from here on.
        forget: whether its keys and values are not kept.
        left_out: blocks that are not run, as shares of the depth.
        filled: share of the blocks, from the first, whose self-attention is not run: its rows get what it added at the
            last scale before that ran whole.
        crossed: whether cross-attention gets that too, in all blocks.
        near: whether rows attend to the keys near them.
        thin: whether of the history only the first and the latest scales are left to it.
    """

    share: float
    rows: int = LEVELS
    single: bool = False
    forget: bool = False
    left_out: tuple[Layers, ...] = ()
    filled: float = 0.0
    crossed: bool = False
    near: bool = False
    thin: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 <= self.rows <= LEVELS or not 0 <= self.filled <= 1:
            raise OptionError(
                f"a late scale has a share in (0, 1], 0 to {LEVELS} rows and a share of the blocks filled, not {self}"
            )
        if not all(0 <= low < high <= 1 for low, high in self.left_out):
            raise OptionError(f"blocks that are left out are from one share of the depth to a higher one, not {self}")


Late = tuple[LateScale, ...]


def applied(late: Late, plan: Plan, schedule: Schedule) -> Plan:
    """A plan with its late scales changed: every scale at least as large as the first of ``late`` takes what the one
    nearest to it in size runs."""
    first = min(each.share for each in late)
    for at in scales(schedule)[1:]:
        if at.share < first - 1e-6 or plan[at.k].run == "skip":
            continue
        own = min(late, key=lambda each: (abs(each.share - at.share), -each.share))
        if not own.rows:
            plan = plan.replace([at.k], run="skip")
            continue
        if own.single and plan[at.k].branch == "both":
            plan = plan.replace(range(at.k, len(plan)), branch="cond")
        if own.rows < LEVELS:
            plan = plan.replace([at.k], tokens=Select(own.rows / LEVELS, restore_by="zero_code"))
        if own.thin:
            plan = _thinned(plan, at)
        if own.forget:
            plan = plan.replace([at.k], cache="none")
        if own.near:
            plan = plan.replace([at.k], attend=(Local(),))
        if rules := tuple(_rules(own, plan, at.k)):
            plan = plan.replace([at.k], parts=rules)
    return plan


def _rules(own: LateScale, plan: Plan, k: int) -> Iterator[PartRows]:
    """Parts that a late scale does not run."""
    for layers in own.left_out:
        yield PartRows(1.0, layers=layers, fill="zero")
    whole = [j for j in plan.executed if j < k and plan[j].tokens is None and not plan[j].parts]
    if whole and own.filled:
        yield PartRows(1.0, ("attention",), (0.0, own.filled), source=whole[-1])
    if whole and own.crossed:
        yield PartRows(1.0, ("cross",), source=whole[-1])


def _thinned(plan: Plan, at: Scale) -> Plan:
    """A plan in which the last scale before this one that keeps its rows leaves only the first and the latest."""
    kept = [k for k in plan.executed if k < at.k and plan[k].cache == "all"]
    sinks = sum(each.share <= SINK for each in scales(at.schedule))
    return plan.replace(kept[-1:], cache=Recent(sinks, LATEST)) if kept else plan


@dataclass(frozen=True, slots=True)
class FoundPlan:
    """A plan with what it does on captions that were not searched on.

    Attributes:
        late: the plan.
        fewer: operations of the plain run over those of the plan, on the schedule that was searched.
        ssim, error: mean SSIM to the plain run, and its standard error.
    """

    late: Late
    fewer: float
    ssim: float
    error: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.fewer, self.ssim, self.error))) or self.fewer <= 0:
            raise OptionError(f"a plan has operations, an SSIM and its error that are numbers, not {self}")


@dataclass(frozen=True, slots=True)
class Chooser:
    """Which of several plans a picture takes: their SSIM as a linear function of its signals, with a margin.

    Attributes:
        share: side, relative to the final one, of the last scale before the plans part.
        center, spread: mean and deviation of each number of ``numbers``.
        weights: per plan a constant, then a weight per number.
        margins: per plan what nine tenths of the pictures were overrated by, at most.
    """

    share: float
    center: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    margins: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.center)
        if len(self.spread) != count or any(len(row) != count + 1 for row in self.weights):
            raise OptionError("a chooser has a mean, a deviation and a weight per plan of each number, and a constant")
        if min(self.spread, default=0) <= 0:
            raise OptionError("the deviations of a chooser's numbers are above 0")

    def expected(self, numbers: Sequence[float]) -> list[float]:
        """Per plan an SSIM that nine of ten pictures of these numbers reach."""
        x = [(value - mean) / by for value, mean, by in zip(numbers, self.center, self.spread, strict=True)]
        return [
            constant + sum(w * value for w, value in zip(own, x, strict=True)) - margin
            for (constant, *own), margin in zip(self.weights, self.margins, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class FoundPlans:
    """All plans of a search, fastest last.

    Attributes:
        model: name of the model that was searched on.
        versions: of stagevar and torch.
        schedule: grids of the scales that were drawn.
        genome: what was searched over.
        captions, held_out: pictures that were searched on, and those that the figures are of.
        plans: the plans.
        chooser: how a picture chooses among them; None for one plan.
    """

    model: str
    versions: Mapping[str, str]
    schedule: Schedule
    genome: str
    captions: int
    held_out: int
    plans: tuple[FoundPlan, ...]
    chooser: Chooser | None = None

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        if not self.plans or not all(plan.late for plan in self.plans):
            raise OptionError("a file of plans has at least one, and each has a late scale")
        if self.chooser is not None and not len(self.chooser.weights) == len(self.chooser.margins) == len(self.plans):
            raise OptionError("the chooser is of another number of plans")

    def require(self, model: str) -> None:
        """Refuse to be drawn by another model, whose pictures the figures do not hold for.

        Raises:
            OptionError: names both, and the command that searches.
        """
        if self.model != model:
            raise OptionError(
                f"the plans are for model {quoted(self.model)}, not for {quoted(model)}; find some with "
                f"`stagevar search --model {model}`"
            )

    def save(self, path: Path) -> None:
        """Write them as JSON, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> FoundPlans:
        """Read plans that ``save`` wrote.

        Raises:
            MissingFileError: there is no such file.
            OptionError: it holds no plans, or those of another version.
        """
        return read_saved(path, "file of plans", FORMAT, "stagevar search", cls)
