"""Our own: stages found per image while it is drawn, and real tokens where the picture has detail.

Idea: as in StageVAR (arXiv 2512.16483), early scales establish semantics, middle ones structure, late ones refine. Here
each image sets its own stage boundaries while it is drawn. A scale's price is its share of all tokens times a factor
that ``quality`` sets; what the scale still changes must be larger than its price. Only real tokens are processed:

* The semantic stage ends when the low band of the latent changes by less than the next scale's price, the structure
  stage when the middle band does as well. Boundaries only move forward.
* Past the semantic stage guidance ends when it flipped fewer codes than the price: the prompt's branch runs alone.
* In the fidelity stage only positions run where the latent has contrast: as many as hold most of the contrast's energy,
  so their number follows the image (a plain scene leaves early, a textured one late) and the scale's price. They are
  processed as themselves, with their own positions; the others add no codes. The rows of such a scale are not kept for
  the scales behind it.
* Beyond half of the final side self-attention of up to a third of the blocks does not run for these rows: they get what
  it added half way (``fills.py``), where the model has a fit.

``quality`` moves along the front: 1 is the plain run. Towards it the price falls to nothing, so that one picture after
another gives up its last saving and the mean time has no step.

``target`` is a wanted SSIM to the plain run, for each picture by itself. The picture runs in full up to half of the
final side. What the latent shows there foretells what each quality of ``QUALITIES`` would cost it, and the fastest
one is taken whose cost stays below the target, or none. The forecast is a linear regression, with a margin that nine in
ten of the fitted pictures stay within.

``stagevar calibrate`` fits the forecast and the fills, in closed form; numbers for the shipped model lie beside this
file. Without a fit there are no fills, and quality needs nothing but the loop's signals; no training.

Limits: a detail that first appears where the latent was flat is missed; the more of a picture is textured, the less is
saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from stagevar.accelerators import fills
from stagevar.accelerators.base import FILE, Accelerator, Facts, Reason, single_branch
from stagevar.accelerators.foreseen import QUALITIES, Foreseen, fitted
from stagevar.accelerators.halfway import fit_file, fit_for, fit_if_any, halfway, watched
from stagevar.engine.grids.grid import Scale, Schedule, scales
from stagevar.engine.plan.plan import Plan, Stage
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.signals import Signal, Signals, coverage
from stagevar.errors import OptionError
from stagevar.fit import Fit

PRICE = 1.6, 4 / 3
"""A scale is worth running in full while it changes more than ``price * (its share of all tokens)`` of the codes. The
price at quality 0, and the power of ``1 - quality`` with which it falls."""

LOW, MIDDLE = 1.5, 3.0
"""Exchange rates: a change of the latent's low band by 150% (middle band: 300%) counts as much as flipping every
code."""

LEFT_OUT = 0.12, 4.0
"""Share of the contrast's energy that is not worked on at the last scale, at quality 0, and the power with which it
falls. At a smaller scale it is smaller by the square of the tokens: rows that cost less are kept more."""

STEP = 1 / 16
"""Shares of kept positions are multiples of this, so that images of a batch share passes."""

SHIPPED = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class StageVAR(Accelerator):
    """Stages per image; late scales run one branch, and only the positions with detail.

    Attributes:
        quality: 0 is fastest, 1 the plain run.
        target: SSIM to the plain run that each picture is to reach, in (0, 1), in place of a quality; 0: none.
        fit: file that ``stagevar calibrate --accelerator stagevar`` wrote; empty for that in the model's
            folder, or of the shipped model.
    """

    name: ClassVar[str] = "stagevar"
    owns: ClassVar[frozenset[str]] = frozenset({"branch", "tokens", "cache", "parts"})
    online: ClassVar[bool] = True
    signals: ClassVar[frozenset[Signal]] = frozenset({"flips", "bands", "support"})
    identity: ClassVar[Mapping[str, object] | None] = {"quality": 1.0}
    quality: float = 0.5
    target: float = 0.0
    fit: str = field(default="", metadata=FILE)

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 1:
            raise OptionError(f"stagevar: quality must lie between 0 and 1, not {self.quality}")
        if not 0 <= self.target < 1:
            raise OptionError(f"stagevar: target must be an SSIM in (0, 1), or 0 for none, not {self.target}")
        if self.target and self.quality != StageVAR.quality:
            raise OptionError("stagevar: a target chooses the quality of each picture; leave one of the two out")

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        if self.quality == 1:
            return plan
        if not self.target:
            fit = fit_if_any(self.name, self.fit, SHIPPED, schedule, facts)
            return plan if fit is None else self._prepared(plan, schedule, facts, fit)
        k = halfway(schedule, self)
        if plan[k].run == "skip":
            raise OptionError(f"{self}: scale {k}, which decides, does not run")
        fit = fit_for(self.name, f"{self.name}(target={self.target:g})", self.fit, SHIPPED, schedule, facts)
        with self._sound(facts):
            watch = Foreseen.read(fit.numbers["bounds"])
        return self._prepared(plan.replace([k], watch=(*plan[k].watch, watch)), schedule, facts, fit)

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        later = [j for j in plan.executed if j > at.k]
        speed = 1 - self._quality(signals)
        if not speed or not later:
            return plan
        low, middle, *flips = _changes(signals, speed, Scale(at.schedule, later[0]))
        stage = _next_stage(plan[at.k].stage or "semantic", low, middle)
        plan = plan.replace(range(at.k + 1, len(plan)), stage=stage)
        if stage != "semantic" and flips and flips[0].met:
            plan = single_branch(plan, later[0], "cond")
        keep = _keep(signals, speed, Scale(at.schedule, later[0])) if stage == "fidelity" else 1.0
        if keep == 1:
            return plan
        plan = fills.released(plan, later[0])
        plan = plan.replace(later[:1], tokens=Select(keep, restore_by="zero_code"), cache="none")
        return fills.filled(plan, later[0], speed)

    def reasons(self, plan: Plan, at: Scale, signals: Signals) -> tuple[Reason, ...]:
        """The quality if a target chooses it here; then the change of the low and of the middle band, and the flips if
        both branches ran."""
        chosen = [Reason("quality for the target", self._quality(signals))] if watched(signals, Foreseen) else []
        later, speed = [j for j in plan.executed if j > at.k], 1 - self._quality(signals)
        return *chosen, *(_changes(signals, speed, Scale(at.schedule, later[0])) if speed and later else ())

    def _quality(self, signals: Signals) -> float:
        """That of the dial, or of a picture that is held to a target: 1 before it is chosen."""
        if not self.target:
            return self.quality
        seen: Signals | None = signals
        while seen is not None:
            if watch := watched(seen, Foreseen):
                return watch.quality(seen.watched[watch], self.target)
            seen = seen.before
        return 1.0

    def _prepared(self, plan: Plan, schedule: Schedule, facts: Facts, fit: Fit) -> Plan:
        """The plan with the fills of a fit, as yet of no effect."""
        with self._sound(facts):
            channels = fills.read(fit.numbers["fills"], schedule, facts.depth)
        return fills.prepared(plan, halfway(schedule, self), channels)

    @contextmanager
    def _sound(self, facts: Facts) -> Iterator[None]:
        """Whatever is wrong with the numbers of a fit as an error of ours."""
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            file = fit_file(self.name, self.fit, SHIPPED, facts)
            raise OptionError(f"{self}: {file} is a damaged fit: {type(error).__name__} {error}") from None

    # --- fitting ------------------------------------------------------------------------------------------------------

    def looks(self, schedule: Schedule) -> tuple[int, Foreseen]:
        """The last scale of at most half the final side, and what is seen there.

        Raises:
            OptionError: there is none.
        """
        return halfway(schedule, self), Foreseen()

    def learns(self, schedule: Schedule, depth: int) -> fills.Learning:
        """The fills."""
        return fills.Learning(schedule, depth, halfway(schedule, self))

    def trials(self, schedule: Schedule, fit: str) -> tuple[str, ...]:
        """Each quality that a target chooses among, with the fills."""
        return tuple(str(StageVAR(quality, fit=fit)) for quality in QUALITIES)

    def fitted(self, seen: Tensor, alike: Tensor) -> Mapping[str, Any]:
        """The bounds of each quality."""
        return {"bounds": fitted(seen, alike)}


def _changes(signals: Signals, speed: float, after: Scale) -> tuple[Reason, ...]:
    """What a scale changed, held against the price of the next one that runs."""
    price = _dial(PRICE, speed) * tokens_share(after)
    low = Reason("low band's change", signals.low, LOW * price)
    middle = Reason("middle band's change", signals.middle, MIDDLE * price)
    flips = () if signals.flips is None else (Reason("codes that guidance flips", signals.flips, price),)
    return low, middle, *flips


def _dial(ends: tuple[float, float], speed: float) -> float:
    """From nothing at quality 1 to its most at quality 0."""
    most, power = ends
    return most * speed**power


def _keep(signals: Signals, speed: float, at: Scale) -> float:
    """Share of a scale's positions that holds all but a share of the contrast's energy, in whole steps."""
    last = Scale(at.schedule, len(at.schedule) - 1)
    left_out = _dial(LEFT_OUT, speed) * (at.tokens / last.tokens) ** 2
    share = coverage(signals.support, 1 - left_out)
    return min(1.0, max(STEP, round(share / STEP) * STEP))


def _next_stage(stage: Stage, low: Reason, middle: Reason) -> Stage:
    """The stage of the next scale that runs; a stage never returns."""
    if stage == "semantic" and low.met:
        stage = "structure"
    if stage == "structure" and middle.met:
        stage = "fidelity"
    return stage


def tokens_share(at: Scale) -> float:
    """Tokens of a scale over those of all scales."""
    return at.tokens / sum(each.tokens for each in scales(at.schedule))
