"""Outlines: where the picture that is given is flat, the last scales do not run, and that is known in advance.

Idea: a call that begins with a picture, to restore it or to draw it anew, need not wait for signals of the run. Fine
scales add detail, and detail is where the picture has contrast: at outlines and in texture. So the rows of the last
scales are ranked by the contrast of the picture, and those that hold little of it add no codes. A flat picture runs few
rows, a busy one many: as many cells as reach a share of the contrast that the busiest ones have, in sixteenths of all,
so that pictures can share passes. The plan is made before anything is drawn, so time and memory are known as well.

This project's own. The latent's contrast ranks rows in ``stagevar``, where no picture is given; RestoreVAR
(arXiv 2505.18047), which taught this family of networks to restore, runs all rows.

Limits. The contrast is that of the faulty picture: rain and noise are contrast too. It is looked at on a grid of 16x16
means, in which noise is small, and held against the picture's own busiest cells, so that haze and darkness do not
matter. Where a picture has fine texture under a strong blur, the detail that is to come back is not seen. Without a
picture the latent's contrast ranks the rows, and half of them run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stagevar.accelerators.base import Accelerator, Facts, last_executed
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.errors import OptionError

STEPS = 16
"""The share of rows that run is a multiple of 1 / STEPS."""

BUSIEST = 0.05
"""Share of a picture's cells that count as its busiest; their mean contrast is 1."""

UNSEEN = 0.5
"""Share of rows that run where no picture is given."""


@dataclass(frozen=True)
class Outlines(Accelerator):
    """At the last ``n`` scales only rows with contrast in the given picture run; the others add no codes.

    Attributes:
        n: scales.
        least: contrast, as a share of that of the picture's busiest cells, from which a cell's rows run; at 0 all do.
    """

    name: ClassVar[str] = "outlines"
    owns: ClassVar[frozenset[str]] = frozenset({"tokens"})
    identity: ClassVar[Mapping[str, object] | None] = {"n": 0}
    n: int = 2
    least: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise OptionError(f"least must lie in [0, 1], not {self.least}")

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        keep = UNSEEN if facts.detail is None else busy(facts.detail, self.least)
        rule = Select(keep, score="picture", restore_by="zero_code")
        return plan.replace(last_executed(plan, self.n, self), tokens=rule) if keep < 1 else plan


def busy(detail: Tensor, least: float) -> float:
    """Share of cells, a multiple of 1 / STEPS and at least one, whose contrast (h, w) reaches ``least`` times the mean
    of the busiest cells; all cells of a picture without contrast."""
    cells = detail.flatten().sort(descending=True).values
    top = cells[: max(1, round(BUSIEST * len(cells)))].mean()
    return max(1, math.ceil(STEPS * float((cells >= least * top).float().mean()))) / STEPS
