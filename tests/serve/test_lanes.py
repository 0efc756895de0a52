"""Batches that are drawn at once: they share pictures and cores, and each picture is the one made alone."""

from __future__ import annotations

import threading

import pytest

from stagevar.errors import ServiceError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import Request
from stagevar.serve.scheduler import Scheduler

from .tickets import PROMPTS, finished, scheduler, ticket

ACCELERATORS = ("none", "drop_last(1)", "stagevar", "guidance_off(1)", "stagevar(quality=0.0)")


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(tiny("scenes"))


def met(made: Scheduler, lanes: int) -> list[int]:
    """Sizes of the first batches, none of which is drawn before as many lanes have one."""
    sizes, draw, all_here = list[int](), made._draw, threading.Barrier(lanes, timeout=30)

    def together(batch: object) -> None:
        sizes.append(len(batch))  # type: ignore[arg-type]
        if len(sizes) <= lanes:
            all_here.wait()
        draw(batch)  # type: ignore[arg-type]

    made._draw = together  # type: ignore[assignment, method-assign]
    return sizes


def test_lanes_share_what_waits_and_each_picture_is_the_one_made_alone(pipe: Pipeline) -> None:
    requests = [Request(PROMPTS[i % 5], seed=i, accelerator=ACCELERATORS[i % 5]) for i in range(12)]
    made = scheduler(pipe, lanes=3)
    tickets = [ticket(pipe, request, name=str(i)) for i, request in enumerate(requests)]
    for each in tickets:
        made.submit(each)
    sizes = met(made, 3)
    finished(made, *tickets)
    assert sizes == [4, 4, 4]
    for each, request in zip(tickets, requests, strict=True):
        *_, last = pipe.events([request])
        assert last.result is not None and each.tell.pictures == [last.result.images[0].tobytes()]  # type: ignore[attr-defined]


def test_pictures_of_one_request_are_drawn_by_two_lanes_and_its_prompt_is_read_once(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, encode = list[str](), pipe.encode
    monkeypatch.setattr(pipe, "encode", lambda prompt: (read.append(prompt), encode(prompt))[1])
    made = scheduler(pipe, lanes=2)
    made.submit(several := ticket(pipe, *(Request(PROMPTS[0], seed=seed) for seed in range(4))))
    sizes = met(made, 2)
    finished(made, several)
    assert sizes == [2, 2] and read == [PROMPTS[0]]
    assert several.tell.pictures == [pipe(PROMPTS[0], seed=seed).images[0].tobytes() for seed in range(4)]  # type: ignore[attr-defined]


def test_lanes_hold_no_more_pictures_than_one_batch_does(pipe: Pipeline) -> None:
    made = scheduler(pipe, batch=4, lanes=2)
    tickets = [ticket(pipe, Request(PROMPTS[0], seed=seed), name=str(seed)) for seed in range(8)]
    for each in tickets:
        made.submit(each)
    sizes = met(made, 2)
    finished(made, *tickets)
    assert max(sizes) == 2 and sum(sizes) == 8


def test_what_ends_one_lane_ends_all(pipe: Pipeline) -> None:
    made = scheduler(pipe, batch=2, lanes=2)
    waits = [ticket(pipe, Request(PROMPTS[0], seed=seed), name=str(seed)) for seed in range(6)]
    for each in waits:
        made.submit(each)

    def ends(batch: object) -> None:
        raise SystemExit

    made._draw = ends  # type: ignore[assignment, method-assign]
    made.run()
    assert isinstance(made.failure, SystemExit) and made.closing
    ended = [each.tell.error for each in waits if each.state.ended]  # type: ignore[attr-defined]
    assert len(ended) >= 4 and all(isinstance(error, ServiceError) for error in ended)
