"""The table of scales: a column per scale with its pictures, where rows ran, milliseconds and token rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from PIL.Image import Image

from stagevar.engine.plan.plan import Stage
from stagevar.measure.why.comparison import Comparison, Run
from stagevar.measure.why.maps import data_url, shaded
from stagevar.measure.why.words import stages

SIDE = 96
"""Longest side in pixels of the pictures of the table."""

EMPTY = '<span class="empty"></span>'
LEGEND = '<i class="bar plain"></i> plain <br><i class="bar own"></i> accelerated'


def table(comparison: Comparison) -> str:
    """The comparison as far as it has got, as HTML."""
    labels = stages(comparison.accelerated.plan) if comparison.accelerated.plan else [None] * len(comparison.schedule)
    rows = (
        _row("stage", _stages(labels), "what the accelerator takes the scales for"),
        _row("tokens", (f"<td>{h}x{w}</td>" for h, w in comparison.schedule), "of the scale's grid"),
        _row("plain", _pictures(comparison, comparison.plain.previews), "the picture after this scale"),
        _row("accelerated", _pictures(comparison, comparison.accelerated.previews), "the picture after this scale"),
        _row("rows that ran", _ran(comparison), "in colour; the darker, the fewer blocks"),
        _row("milliseconds", _bars(comparison, "milliseconds", labels), LEGEND),
        _row("token rows", _bars(comparison, "rows", labels), "through the network, over both branches"),
    )
    body = "".join(rows)
    return f'<div class="scales" tabindex="0" role="region" aria-label="Scale by scale"><table>{body}</table></div>'


def _row(name: str, cells: Iterator[str], about: str) -> str:
    return f'<tr><th scope="row">{name}<small>{about}</small></th>{"".join(cells)}</tr>'


def _stages(labels: Sequence[Stage | None]) -> Iterator[str]:
    """A cell for every stretch of scales of one stage."""
    for stage, scales in groupby(labels):
        band = f'<span class="band {stage or "none"}">{stage or "not told"}</span>'
        yield f'<td colspan="{len(list(scales))}">{band}</td>'


def _pictures(comparison: Comparison, previews: Sequence[Image]) -> Iterator[str]:
    for k, (h, w) in enumerate(comparison.schedule):
        shown = f'<img src="{data_url(previews[k], SIDE)}" alt="after {h}x{w} tokens">' if k < len(previews) else EMPTY
        yield f"<td>{shown}</td>"


def _ran(comparison: Comparison) -> Iterator[str]:
    """The accelerated picture, shaded where few rows ran, and the share of all that did."""
    run = comparison.accelerated
    for k in range(len(run.previews)):
        share, skipped = comparison.shares[k], run.plan is not None and run.plan[k].run == "skip"
        picture, amount = data_url(shaded(run.previews[k], share), SIDE), f"{float(share.mean()):.0%}"
        yield f'<td><img src="{picture}" alt="{amount} of the rows ran">{"not run" if skipped else amount}</td>'
    yield from [f"<td>{EMPTY}</td>"] * (len(comparison.schedule) - len(run.previews))


def _bars(comparison: Comparison, what: str, labels: Sequence[Stage | None]) -> Iterator[str]:
    """Two bars and two numbers per scale, the plain run's first."""
    plain, own = (_values(run, what, len(comparison.schedule)) for run in (comparison.plain, comparison.accelerated))
    most = max(*plain, *own) or 1.0
    for k, stage in enumerate(labels):
        bars = "".join(
            f'<i class="bar {kind}" style="height:{100 * of[k] / most:.1f}%"></i>'
            for kind, of in (("plain", plain), ("own", own))
        )
        numbers = "".join(f"<{tag}>{_figure(of[k])}</{tag}>" for tag, of in (("span", plain), ("b", own)) if any(of))
        yield f'<td class="{stage or "none"}"><div class="bars">{bars}</div><div class="numbers">{numbers}</div></td>'


def _values(run: Run, what: str, count: int) -> list[float]:
    """One column of the trace, zeros before there is one."""
    return [row[what] for row in run.trace.by_scale()] if run.traces else [0.0] * count


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
