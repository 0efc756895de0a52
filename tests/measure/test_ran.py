"""The rows that the page shows as run are those that the trace counts."""

from __future__ import annotations

import pytest

from stagevar.engine.grids.grid import Scale
from stagevar.families.catalogue import FAMILIES
from stagevar.families.tiny import tiny
from stagevar.measure.why.ran import RowsRan
from stagevar.pipeline import Pipeline
from stagevar.request import Request

ACCELERATORS = (
    "drop_last",
    "reuse_last",
    "fastvar(skip=0, prune=(0.4, 0.5, 0.7))",
    "stagevar(0.0)",
    "lazyvar",
    "stagevar_paper",
)


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if row.tiny is not None])
def test_shares_of_places_add_up_to_the_rows_of_the_trace(family: str) -> None:
    pipe = Pipeline(tiny(family))
    for accelerator in ACCELERATORS:
        request = Request(pipe.model.samples[0], seed=3, accelerator=accelerator)
        watch = RowsRan(pipe.model, schedule := pipe.prepare(request).schedule)
        *_, event = pipe.events([request], tap=watch)
        assert event.result is not None
        for record in event.result.trace.records:
            at, branches = Scale(schedule, record.scale), 2 if record.branch == "both" else 1
            share = watch.shares[record.scale]
            ahead = pipe.model.rows(at) - at.tokens if share.any() else 0
            assert float(share.max()) <= 1 + 1e-6
            assert branches * (float(share.sum()) + ahead) == pytest.approx(record.rows, abs=0.51), (
                accelerator,
                record,
            )


def test_kept_rows_are_at_their_places() -> None:
    """With ``stagevar`` some places of a late scale run, those with contrast, and others do not."""
    pipe = Pipeline(tiny("scenes"))
    request = Request(pipe.model.samples[0], seed=3, accelerator="stagevar(0.0)")
    watch = RowsRan(pipe.model, pipe.prepare(request).schedule)
    *_, event = pipe.events([request], tap=watch)
    thinned = [k for k, scale in enumerate(event.plans[0]) if scale.tokens is not None]
    assert thinned
    for k in thinned:
        assert set(watch.shares[k].round(decimals=5).unique().tolist()) == {0.0, 1.0}
