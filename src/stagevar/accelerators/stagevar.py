"""Our own: stages found per image while it is drawn, and real tokens where the picture has detail.

Idea: as in StageVAR (arXiv 2512.16483), early scales establish semantics, middle ones structure, late ones refine. Here
each image sets its own stage boundaries while it is drawn. A scale's price is its share of all tokens times a factor
that ``quality`` sets; what the scale still changes must be larger than its price. Only real tokens are processed:

* The semantic stage ends when the low band of the latent changes by less than the next scale's price, the structure
  stage when the middle band does as well. Boundaries only move forward.
* Past the semantic stage guidance ends when it flipped fewer codes than the price: the prompt's branch runs alone.
* In the fidelity stage only positions run where the latent has contrast: as many as hold most of the contrast's energy,
  so their number follows the image (a plain scene leaves early, a textured one late). They are processed as themselves,
  with their own positions; the others add no codes. The rows of such a scale are not kept for the scales behind it.

``quality`` moves along the front: 1 is the plain run. ``stagevar calibrate`` measures which quality reaches a wanted
SSIM on a model.

Needs nothing but the loop's signals; no training. Limits: a detail that first appears where the latent was flat is
missed; the more of a picture is textured, the less is saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from stagevar.accelerators.base import Accelerator, single_branch
from stagevar.engine.grids.grid import Scale, scales
from stagevar.engine.plan.plan import Plan, Stage
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.signals import Signals, coverage
from stagevar.errors import OptionError

PRICES = 0.25, 1.6
"""A scale is worth running in full while it changes more than ``price * (its share of all tokens)`` of the codes. Price
at quality 1 (low, keeps almost everything) and at quality 0."""

LOW, MIDDLE = 1.5, 3.0
"""Exchange rates: a change of the latent's low band by 150% (middle band: 300%) counts as much as flipping every
code."""

LEFT_OUT = 0.0006, 0.12
"""Share of the contrast's energy that is not worked on: at quality 1 and at quality 0."""

STEP = 1 / 16
"""Shares of kept positions are multiples of this, so that images of a batch share passes."""


@dataclass(frozen=True)
class StageVAR(Accelerator):
    """Stages per image; late scales run one branch, and only the positions with detail.

    Attributes:
        quality: 0 is fastest, 1 the plain run.
    """

    name: ClassVar[str] = "stagevar"
    owns: ClassVar[frozenset[str]] = frozenset({"branch", "tokens"})
    online: ClassVar[bool] = True
    identity: ClassVar[Mapping[str, object] | None] = {"quality": 1.0}
    quality: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 1:
            raise OptionError(f"stagevar: quality must lie between 0 and 1, not {self.quality}")

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        later = [j for j in plan.executed if j > at.k]
        if self.quality == 1 or not later:
            return plan
        price = self._between(PRICES) * tokens_share(Scale(at.schedule, later[0]))
        stage = _next_stage(plan[at.k].stage or "semantic", signals, price)
        plan = plan.replace(range(at.k + 1, len(plan)), stage=stage)
        if stage != "semantic" and signals.flips is not None and signals.flips <= price:
            plan = single_branch(plan, later[0], "cond")
        keep = self._keep(signals) if stage == "fidelity" else 1.0
        if keep == 1:
            return plan
        return plan.replace(later[:1], tokens=Select(keep, restore_by="zero_code"), cache="none")

    def _keep(self, signals: Signals) -> float:
        """Share of positions that holds the energy the dial asks for, in whole steps."""
        share = coverage(signals.support, 1 - self._between(LEFT_OUT))
        return min(1.0, max(STEP, round(share / STEP) * STEP))

    def _between(self, ends: tuple[float, float]) -> float:
        """From the value at quality 1 to that at quality 0, by equal ratios."""
        best, fastest = ends
        return float(best * (fastest / best) ** (1 - self.quality))


def _next_stage(stage: Stage, signals: Signals, price: float) -> Stage:
    """The stage of the next scale that runs; a stage never returns."""
    if stage == "semantic" and signals.low <= LOW * price:
        stage = "structure"
    if stage == "structure" and signals.middle <= MIDDLE * price:
        stage = "fidelity"
    return stage


def tokens_share(at: Scale) -> float:
    """Tokens of a scale over those of all scales."""
    return at.tokens / sum(each.tokens for each in scales(at.schedule))
