"""Our own: stages found per image while it is drawn, and real tokens where the picture still changes.

Idea: as in StageVAR (arXiv 2512.16483), early scales establish semantics, middle ones structure, late ones refine. Here
the boundaries are read off the image itself and nothing is mixed at random:

* The semantic stage ends when a scale changes the low band of the latent little, the structure stage when it changes
  the middle band little as well. Both are numbers that the loop has at hand; boundaries only move forward.
* In the fidelity stage the prompt's branch runs alone; guidance can be carried over (``carry``), which lost on scenes.
* There only positions run that still change: those that hold most of the energy of the last change. Their number
  follows the image (a plain scene leaves early, a textured one late). They are processed as themselves, with their own
  positions; the others add no codes, so their latent stays what it was.

``quality`` moves along the front: 1 is the plain run.

Needs nothing but the loop's signals; no calibration, no training. Limits: a detail that first appears where nothing
changed before is missed; at low quality so are weak textures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stagevar.accelerators.base import Accelerator
from stagevar.errors import OptionError
from stagevar.loop.plan import Plan, Schedule, Stage
from stagevar.loop.signals import SUPPORT_ENERGIES, Signals
from stagevar.loop.tokens import Select

SEMANTIC_ENDS = 0.13
"""Relative change of the low band below which the picture's content stands."""

STRUCTURE_ENDS = 0.55
"""Relative change of the middle band below which its shapes stand."""

STEP = 1 / 16
"""Shares of kept positions are multiples of this, so that images of a batch share passes."""


@dataclass(frozen=True)
class StageVAR(Accelerator):
    """Stages per image, and only the positions that still change.

    Attributes:
        quality: 0 is fastest, 1 the plain run.
        carry: share of the last guidance difference that is carried into single-branch scales.
    """

    name: ClassVar[str] = "stagevar"
    owns: ClassVar[frozenset[str]] = frozenset({"tokens"})
    online: ClassVar[bool] = True
    quality: float = 0.5
    carry: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.quality <= 1:
            raise OptionError(f"stagevar: quality must lie between 0 and 1, not {self.quality}")
        if not 0 <= self.carry <= 1:
            raise OptionError(f"stagevar: carry must lie between 0 and 1, not {self.carry}")

    def revise(self, plan: Plan, k: int, signals: Signals, schedule: Schedule) -> Plan:
        if self.quality == 1 or k + 1 == len(plan):
            return plan
        stage = self._stage(plan[k].stage or "semantic", signals)
        rest = range(k + 1, len(plan))
        if stage != "fidelity":
            return plan.replace(rest, stage=stage)
        plan = plan.replace(rest, stage=stage, branch="cond", carry=self.carry)
        keep = self._keep(signals)
        return plan if keep == 1 else plan.replace([k + 1], tokens=Select(keep, restore_by="zero_code"))

    def _stage(self, stage: Stage, signals: Signals) -> Stage:
        """The stage of the next scale; a stage never returns."""
        if stage == "semantic" and signals.low < SEMANTIC_ENDS:
            stage = "structure"
        if stage == "structure" and signals.middle < STRUCTURE_ENDS:
            stage = "fidelity"
        return stage

    def _keep(self, signals: Signals) -> float:
        """Share of positions that holds the energy the dial asks for, in whole steps."""
        place = self.quality * (len(SUPPORT_ENERGIES) - 1)
        below = min(int(place), len(SUPPORT_ENERGIES) - 2)
        low, high = signals.support[below], signals.support[below + 1]
        share = low + (place - below) * (high - low)
        return min(1.0, max(STEP, round(share / STEP) * STEP))
