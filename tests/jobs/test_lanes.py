"""Two batches of a job at once: their pictures are those made alone, and nothing is drawn once nobody waits."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from stagevar.cores import Cores, default_lanes
from stagevar.errors import StagevarError
from stagevar.families.tiny import tiny
from stagevar.jobs.drawn import Drawer
from stagevar.jobs.rows import Bad
from stagevar.pipeline import Pipeline

from .job_parts import numbered


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(tiny("var"))


def test_a_batch_alone_has_all_cores_and_two_have_half_each() -> None:
    cores = Cores()
    cores.begin()
    cores.share()
    alone = torch.get_num_threads()
    cores.begin()
    cores.share()
    both = torch.get_num_threads()
    cores.end()
    assert (alone, both, torch.get_num_threads()) == (4, 2, 4)
    for _ in range(9):
        cores.begin()
    cores.share()
    assert torch.get_num_threads() == 1


def test_two_lanes_are_usual_where_cores_can_be_shared(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_lanes([pipe]) == 2
    monkeypatch.setattr(pipe, "max_memory", 2**30)
    assert default_lanes([pipe]) == 1, "memory is foreseen for one batch"
    monkeypatch.undo()
    torch.set_num_threads(1)
    assert default_lanes([pipe]) == 1


def test_two_batches_are_drawn_at_once_and_have_the_pictures_made_alone(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, events, sizes = threading.Barrier(2, timeout=30), pipe.events, list[int]()

    def together(requests: list[Any], **more: Any) -> Any:
        sizes.append(len(requests))
        both.wait()
        return events(requests, **more)

    monkeypatch.setattr(pipe, "events", together)
    found = list(Drawer(pipe, 0, 4)(numbered(8)))
    monkeypatch.undo()
    assert sizes == [2, 2, 2, 2], "four pictures at once, two a lane"
    drawn = [each for batch in found if not isinstance(batch, Bad) for each in batch]
    assert [each.id for each in drawn] == [f"r{i}" for i in range(8)]
    for each in drawn:
        alone = pipe(each.record["prompt"], seed=each.record["seed"]).images[0]
        assert Image.open(io.BytesIO(each.png)).tobytes() == alone.tobytes()


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "failed"])
def test_batches_that_nobody_waits_for_end_at_the_next_scale(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    events, held, ended = pipe.events, threading.Event(), list[str]()

    def slow(requests: list[Any], **more: Any) -> Iterator[Any]:
        if requests[0].prompt == "2" and not closed:
            raise StagevarError("it cannot be drawn")
        if requests[0].prompt != "0":
            held.wait(0.2)
        try:
            yield from events(requests, **more)
        finally:
            ended.append(requests[0].prompt)

    monkeypatch.setattr(pipe, "events", slow)
    drawing = Drawer(pipe, 0, 2)(numbered(4))
    assert len(next(drawing)) == 1  # type: ignore[arg-type]
    if closed:
        drawing.close()  # type: ignore[attr-defined]
        assert "3" not in ended, "what had not begun never does"
    else:
        with pytest.raises(StagevarError, match="cannot be drawn"):
            list(drawing)
