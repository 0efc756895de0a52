"""Predict the plan of an online accelerator without drawing: feed ``revise`` the average signals of past pictures."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from stagevar.accelerators.base import Accelerator
from stagevar.engine.grids.grid import Schedule, scales
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import Signals
from stagevar.engine.plan.watch import Watch

Row = tuple[float, ...]

MEAN_PICTURE: tuple[Row, ...] = (
    (0.03125, 0.30, 0.44, 1.00, 0.82, 0.83, 0.20, 0.46, 0.60, 0.69, 0.78, 0.82, 0.85, 0.87, 0.88),
    (0.06250, 0.22, 0.66, 0.50, 0.99, 0.99, 0.23, 0.45, 0.57, 0.66, 0.75, 0.79, 0.84, 0.89, 0.92),
    (0.09375, 0.17, 0.78, 0.61, 0.99, 0.98, 0.20, 0.41, 0.52, 0.62, 0.71, 0.77, 0.82, 0.88, 0.91),
    (0.12500, 0.14, 0.83, 0.33, 0.66, 0.68, 0.18, 0.36, 0.47, 0.56, 0.65, 0.71, 0.77, 0.84, 0.88),
    (0.18750, 0.13, 0.89, 0.28, 0.73, 0.78, 0.15, 0.31, 0.41, 0.48, 0.57, 0.63, 0.70, 0.79, 0.85),
    (0.25000, 0.09, 0.93, 0.23, 0.54, 0.68, 0.12, 0.26, 0.34, 0.41, 0.49, 0.55, 0.62, 0.71, 0.78),
    (0.37500, 0.13, 0.92, 0.10, 0.58, 0.64, 0.11, 0.22, 0.29, 0.35, 0.42, 0.48, 0.54, 0.63, 0.70),
    (0.50000, 0.09, 0.93, 0.07, 0.49, 0.57, 0.09, 0.19, 0.24, 0.29, 0.35, 0.41, 0.46, 0.54, 0.61),
    (0.75000, 0.12, 0.88, 0.05, 0.16, 0.42, 0.09, 0.17, 0.22, 0.27, 0.33, 0.37, 0.43, 0.50, 0.57),
    (1.00000, 0.09, 0.90, 0.05, 0.17, 0.70, 0.07, 0.15, 0.19, 0.22, 0.26, 0.28, 0.33, 0.41, 0.49),
)
"""Side of a scale relative to the final one, then the signals there in the order of ``Signals``: means over 128
captions of the scenes suite, of the model's plain run. Other models show others."""


def rehearse(accelerator: Accelerator, plan: Plan, schedule: Schedule) -> Plan:
    """The plan as it stands at the end for a picture with the signals of ``MEAN_PICTURE``. An accelerator that decides
    before the loop leaves it unchanged."""
    before: Signals | None = None
    for at in scales(schedule) if accelerator.online else ():
        if plan.ends_pass(at.k):
            seen = signals_at(at.share, plan[at.k].watch, both=plan[at.k].branch == "both")
            before = replace(seen, before=before)
            plan = accelerator.revise(plan, at, before)
    return plan


def signals_at(share: float, watch: Sequence[Watch] = (), *, both: bool = True) -> Signals:
    """The mean picture's signals at a scale of a relative side, and the typical numbers of what is watched."""
    flips, confidence, low, middle, high, *support = between(MEAN_PICTURE, share)
    watched = {each: tuple(between(each.typical, share)) for each in watch}
    return Signals(flips if both else None, confidence, low, middle, high, tuple(support), watched)


def between(rows: Sequence[Row], share: float) -> list[float]:
    """The numbers at a scale of a relative side, linear between the measured ones."""
    place = bisect_left(rows, (share,))
    above, below = rows[min(place, len(rows) - 1)], rows[max(place - 1, 0)]
    weight = 0.0 if above is below else (share - below[0]) / (above[0] - below[0])
    return [b + weight * (a - b) for a, b in zip(above[1:], below[1:], strict=True)]
