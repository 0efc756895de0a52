"""The record of what ran, as a person reads it."""

from __future__ import annotations

import pytest

from stagevar.engine.loop.trace import ScaleRecord, Trace


def full(scale: int, images: tuple[int, ...]) -> ScaleRecord:
    return ScaleRecord(scale, (2, 3 + scale), images, "full", "both", rows=10, cached=0, milliseconds=2.5)


def skipped(scale: int, images: tuple[int, ...]) -> ScaleRecord:
    return ScaleRecord(scale, (2, 3 + scale), images, "skip", "both", rows=0, cached=0, milliseconds=0.5)


@pytest.fixture
def trace() -> Trace:
    """Of two pictures that part at scale 1, where one is left out; its passes come last."""
    records = [full(0, (0, 1)), skipped(2, (0, 1)), skipped(1, (1,)), full(1, (0,))]
    machine = {"device": "<card>", "dtype": "float32"}
    return Trace("a-model", machine, {}, [{"seed": 3}, {"seed": 5}], records, 1.0, 4.0)


def test_a_scale_is_one_row_with_the_sums_of_its_passes(trace: Trace) -> None:
    assert trace.by_scale() == [
        {"scale": 0, "grid": "2x3", "tokens": 6, "rows": 10, "run": 2, "milliseconds": 2.5},
        {"scale": 1, "grid": "2x4", "tokens": 8, "rows": 10, "run": 1, "milliseconds": 3.0},
        {"scale": 2, "grid": "2x5", "tokens": 10, "rows": 0, "run": 0, "milliseconds": 0.5},
    ]


def test_a_trace_is_said_in_one_line(trace: Trace) -> None:
    assert repr(trace) == (
        "Trace(2 of a-model on <card>, float32: 2 scales in 4 passes, text 1 ms, network 6 ms, decoder 4 ms)"
    )


def test_a_notebook_shows_the_line_and_a_table_with_a_row_per_scale(trace: Trace) -> None:
    shown = trace._repr_html_()
    assert shown.startswith("<p>Trace(2 of a-model on &lt;card&gt;, float32")
    assert "<tr><th>scale</th><th>grid</th><th>tokens</th><th>rows</th><th>run</th><th>milliseconds</th></tr>" in shown
    assert "<tr><td>1</td><td>2x4</td><td>8</td><td>10</td><td>1</td><td>3.0</td></tr>" in shown
    assert shown.count("<tr>") == 4
    assert Trace("a-model", {}, {}, [])._repr_html_().endswith("<table><tr></tr></table>")


def test_what_ran_is_told_by_picture(trace: Trace) -> None:
    assert (trace.executed(0), trace.executed(1)) == ((0, 1), (0,))
    assert (trace.seeds, trace.network_milliseconds) == ((3, 5), 6.0)
