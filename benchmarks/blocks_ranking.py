"""Accelerators ranked on one model, as Markdown: by how far they are above what plain omission gives at their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import hypot, log

from blocks import Row, conditions, difference, is_ours, measured, step

from stagevar.measure.markdown import table

CONTROLS = ("none", "drop_last", "guidance_off", "reuse_last")
"""Names of the controls, with any settings; the plain run is the first point of their front."""


@dataclass(frozen=True, slots=True)
class Lead:
    """How far an accelerator is above the controls at its operations.

    Attributes:
        row: its figures.
        saved: operations of the plain run over its own.
        ssim: what the controls' front reaches there; None without a saving.
        lead: SSIM above that, with ``error``, taking both as independent; None without a saving.
        least: whether the controls end before that, so that the lead is larger.
    """

    row: Row
    saved: float
    ssim: float | None
    lead: float | None
    error: float
    least: bool = False


def ranking(report: Row) -> str:
    """Best lead first; methods without a saving come last."""
    found = report["comparison"]
    leads = sorted(leads_of(found["rows"]), key=lambda each: -1 if each.lead is None else each.lead, reverse=True)
    rows = [
        [
            str(place),
            f"`{each.row['accelerator']}`",
            f"{each.saved:.2f}x",
            f"{each.row['speedup']:.2f}x",
            measured(each.row, "ssim"),
            "no saving" if each.ssim is None else f"{'below ' * each.least}{each.ssim:.3f}",
            "-" if each.lead is None else f"{'> ' * each.least}{each.lead:+.3f} ± {each.error:.3f}",
            difference(each.row),
        ]
        for place, each in enumerate(leads, 1)
    ]
    head = "rank|accelerator|by operations|by clock|SSIM|controls there|lead|oracle, difference"
    return f"{conditions(found)}. {step(found)}\n\n{table(head.split('|'), rows)}\n\n{left_out(report)}"


def leads_of(rows: Sequence[Row]) -> list[Lead]:
    """Of all accelerators but the controls, and of our dial its default alone."""
    front, plain = controls(rows), rows[0]["flops"]
    ranked = (row for row in rows if row["accelerator"] == "stagevar" or not is_ours(row))
    return [lead(row, plain / row["flops"], front) for row in ranked if named(row) not in CONTROLS]


def named(row: Row) -> str:
    """Name of an accelerator without its settings."""
    return str(row["accelerator"]).partition("(")[0]


def controls(rows: Sequence[Row]) -> list[tuple[float, float, float]]:
    """The front of the controls, the plain run first: operations saved, SSIM and its error."""
    points = [
        (rows[0]["flops"] / row["flops"], row["ssim"], row["ssim_error"] or 0.0)
        for row in rows
        if named(row) in CONTROLS and "+" not in row["accelerator"]
    ]
    best: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda each: (-each[0], -each[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best[::-1]


def lead(row: Row, saved: float, front: Sequence[tuple[float, float, float]]) -> Lead:
    """Against the front at the same operations, linear in their logarithm; beyond its end against the last control,
    which saves less, so that the lead is larger than that."""
    for (less, high, one), (more, low, other) in pairwise(front):
        if less <= saved <= more:
            part = (log(saved) - log(less)) / (log(more) - log(less))
            ssim, error = high + part * (low - high), hypot((1 - part) * one, part * other)
            return Lead(row, saved, ssim, row["ssim"] - ssim, hypot(error, row["ssim_error"] or 0.0))
    if saved < 1:
        return Lead(row, saved, None, None, 0.0)
    _, ssim, error = front[-1]
    return Lead(row, saved, ssim, row["ssim"] - ssim, hypot(error, row["ssim_error"] or 0.0), least=True)


def searches(report: Row) -> str:
    """Ways to find a plan, and hand shapes, as means over seeds."""
    rows = [
        [
            row["plan"],
            f"{row['fewer']:.2f}x",
            f"{row['ssim']:.4f} ± {row['error']:.4f}",
            "" if row["plan"] == "found" else f"{row['behind']:+.4f} ± {row['behind_error']:.4f}",
        ]
        for row in report["rows"]
    ]
    about = (
        f"{report['model']}, {report['dtype']}, genome {report['genome']}, {report['budget']:g}x fewer operations: "
        f"{len(report['runs'])} seeds, {report['evaluations']} plans each on up to {report['captions']} captions, "
        f"figures of {report['held_out']} others."
    )
    return f"{about}\n\n{table(['plan', 'operations', 'SSIM, held out', 'evolution is ahead by'], rows)}"


def left_out(report: Mapping[str, Mapping[str, str]]) -> str:
    said = [f"`{name}`: {why}" for name, why in report["left_out"].items()]
    return f"Not measured: {'; '.join(said)}." if said else "All accelerators of the package were measured."
