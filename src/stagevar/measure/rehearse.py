"""The course that an online accelerator would take, without drawing: its plan, revised by a mean picture's signals."""

from __future__ import annotations

from bisect import bisect_left

from stagevar.accelerators.base import Accelerator, share_of_final
from stagevar.loop.plan import Plan, Schedule
from stagevar.loop.signals import Signals

Row = tuple[float, ...]

MEAN_PICTURE: tuple[Row, ...] = (
    (0.03125, 0.17, 0.62, 1.00, 0.92, 0.90, 0.80, 0.90, 0.95, 0.98, 0.99, 1.00),
    (0.06250, 0.29, 0.75, 0.47, 1.00, 1.00, 0.48, 0.62, 0.73, 0.83, 0.88, 0.92),
    (0.09375, 0.31, 0.81, 0.58, 0.99, 0.99, 0.38, 0.52, 0.64, 0.76, 0.82, 0.87),
    (0.12500, 0.28, 0.87, 0.36, 0.71, 0.72, 0.30, 0.44, 0.56, 0.70, 0.78, 0.84),
    (0.18750, 0.20, 0.91, 0.29, 0.74, 0.78, 0.23, 0.36, 0.48, 0.64, 0.74, 0.81),
    (0.25000, 0.13, 0.95, 0.23, 0.52, 0.67, 0.25, 0.37, 0.48, 0.61, 0.69, 0.77),
    (0.37500, 0.21, 0.93, 0.10, 0.57, 0.63, 0.21, 0.32, 0.42, 0.55, 0.63, 0.72),
    (0.50000, 0.16, 0.94, 0.06, 0.48, 0.56, 0.19, 0.28, 0.36, 0.46, 0.52, 0.59),
    (0.75000, 0.21, 0.89, 0.05, 0.17, 0.43, 0.21, 0.29, 0.37, 0.45, 0.52, 0.61),
    (1.00000, 0.17, 0.90, 0.05, 0.18, 0.69, 0.16, 0.21, 0.26, 0.32, 0.37, 0.42),
)
"""Side of a scale relative to the final one, then the signals there in the order of ``Signals``: means over 12 held-out
captions of the scenes model's plain run. Other models show others."""


def rehearse(accelerator: Accelerator, plan: Plan, schedule: Schedule) -> Plan:
    """The plan as it would stand at the end for a picture of ``MEAN_PICTURE``; unchanged if all is decided before."""
    if accelerator.online:
        for k in range(len(plan)):
            if plan[k].run != "skip":
                signals = signals_at(share_of_final(schedule, k), both=plan[k].branch == "both")
                plan = accelerator.revise(plan, k, signals, schedule)
    return plan


def signals_at(share: float, *, both: bool = True) -> Signals:
    """The mean picture's signals at a scale of a relative side, linear between the measured ones."""
    place = bisect_left(MEAN_PICTURE, (share,))
    above = MEAN_PICTURE[min(place, len(MEAN_PICTURE) - 1)]
    below = MEAN_PICTURE[max(place - 1, 0)]
    weight = 0.0 if above is below else (share - below[0]) / (above[0] - below[0])
    flips, confidence, low, middle, high, *support = (
        b + weight * (a - b) for a, b in zip(above[1:], below[1:], strict=True)
    )
    return Signals(flips if both else None, confidence, low, middle, high, tuple(support))
