"""Batches, turns and ends, without HTTP: the scheduler alone, step by step or in its thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from stagevar.errors import BusyError, Cancelled, DeadlineError, NumericError, PromptError, ServiceError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import Request
from stagevar.serve.metrics import Metrics
from stagevar.serve.scheduler import Scheduler
from stagevar.serve.ticket import Partial, State
from stagevar.serve.turns import Turns

from .tickets import PROMPTS, finished, running, scheduler, ticket

ACCELERATORS = ("none", "drop_last(1)", "stagevar", "guidance_off(1)", "stagevar(quality=0.0)")


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(tiny("scenes"))


@contextmanager
def batches(made: Scheduler) -> Iterator[list[int]]:
    """The sizes of the batches that are drawn."""
    sizes, draw = [], made._draw
    made._draw = lambda batch: (sizes.append(len(batch)), draw(batch))[1]  # type: ignore[method-assign]
    yield sizes


def test_pictures_that_share_a_batch_are_those_made_alone(pipe: Pipeline) -> None:
    requests = [
        Request(
            prompt, seed=i, accelerator=how, guidance_scale=1.0 + i, negative_prompt=PROMPTS[i - 1] if i % 2 else None
        )
        for i, (prompt, how) in enumerate(zip(PROMPTS, ACCELERATORS, strict=True))
    ]
    made = scheduler(pipe)
    tickets = [ticket(pipe, request, name=str(i)) for i, request in enumerate(requests)]
    for each in tickets:
        made.submit(each)
    with batches(made) as sizes:
        finished(made, *tickets)
    assert sizes == [5]
    for each, request in zip(tickets, requests, strict=True):
        *_, last = pipe.events([request])
        assert last.result is not None and each.tell.pictures == [last.result.images[0].tobytes()]  # type: ignore[attr-defined]
        assert each.state is State.DONE


def test_clients_take_turns_and_so_do_the_requests_of_a_client(pipe: Pipeline) -> None:
    turns, many = Turns(), [Request(PROMPTS[0], seed=i) for i in range(5)]
    crowd, small, other = ticket(pipe, *many), ticket(pipe), ticket(pipe, *many[:2], name="b")
    for each in (crowd, small, other):
        turns.add(each)
    assert len(turns) == 8
    order = []
    while (picture := turns.take()) is not None:
        order.append(picture.ticket)
    assert order == [crowd, other, small, other, crowd, crowd, crowd, crowd]
    assert not len(turns) and list(turns) == []


def test_one_picture_does_not_wait_for_another_clients_sixty_four(pipe: Pipeline) -> None:
    made = scheduler(pipe, batch=4, queue=100)
    crowd = ticket(pipe, *(Request(PROMPTS[i % 5], seed=i) for i in range(64)))
    made.submit(crowd)
    made.submit(small := ticket(pipe, Request(PROMPTS[1]), name="b"))
    behind: list[int] = []
    small.tell = lambda update: behind.append(crowd.drawn)
    finished(made, crowd, small)
    assert behind[0] <= 4 and crowd.drawn == 64


def test_pictures_of_other_sizes_keep_their_places() -> None:
    pipe = Pipeline(tiny("infinity"))
    small, large = ((Request(PROMPTS[0], height=side, width=side)) for side in (32, 64))
    turns = Turns()
    tickets = [ticket(pipe, request, name=str(i)) for i, request in enumerate((small, large, small, large))]
    for each in tickets:
        turns.add(each)
    first = turns.take()
    assert first is not None and first.ticket is tickets[0]
    second = turns.take(first.ticket.kind)
    assert second is not None and second.ticket is tickets[2] and turns.take(first.ticket.kind) is None
    third = turns.take()
    assert third is not None and third.ticket is tickets[1]


def test_a_full_queue_refuses_and_says_when_to_come_back(pipe: Pipeline) -> None:
    made = scheduler(pipe, queue=2)
    made.submit(ticket(pipe))
    made.submit(ticket(pipe, Request(PROMPTS[0]), Request(PROMPTS[1])))
    with pytest.raises(BusyError, match="3 pictures are waiting") as caught:
        made.submit(ticket(pipe))
    assert caught.value.retry_after == 1
    finished(made)


def test_a_prompt_that_cannot_be_read_fails_alone(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(prompt: str) -> Any:
        if prompt == "nonsense":
            raise PromptError("the model does not know the word nonsense")
        return Pipeline.encode(pipe, prompt)

    monkeypatch.setattr(pipe, "encode", encode)
    made = scheduler(pipe)
    good, bad, worse = (
        ticket(pipe),
        ticket(pipe, Request("nonsense")),
        ticket(pipe, Request("a", negative_prompt="nonsense")),
    )
    for each in (bad, good, worse):
        made.submit(each)
    finished(made, good, bad, worse)
    assert [each.state for each in (bad, good, worse)] == [State.FAILED, State.DONE, State.FAILED]
    assert isinstance(bad.tell.error, PromptError) and good.tell.error is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("fault", [NumericError("NaN"), RuntimeError("a bug")])
def test_a_picture_that_cannot_be_drawn_fails_alone(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    events = Pipeline.events

    def broken(self: Pipeline, requests: Any, **options: Any) -> Any:
        for event in events(self, requests, **options):
            if event.scale == 2 and any(request.seed == 666 for request in requests):
                raise fault
            yield event

    monkeypatch.setattr(Pipeline, "events", broken)
    made = scheduler(pipe)
    tickets = [ticket(pipe, Request(PROMPTS[0], seed=seed), previews=frozenset([0])) for seed in (1, 666, 2, 3, 4)]
    for each in tickets:
        made.submit(each)
    finished(made, *tickets)
    assert [each.state is State.DONE for each in tickets] == [True, False, True, True, True]
    assert tickets[1].tell.error is fault or "log" in str(tickets[1].tell.error)  # type: ignore[attr-defined]
    for each in tickets:
        assert len([update for update in each.tell.told if isinstance(update, Partial)]) == 1, "shown once"  # type: ignore[attr-defined]


def test_a_client_that_leaves_frees_its_rows_at_the_next_scale(pipe: Pipeline) -> None:
    made = scheduler(pipe)
    stays = ticket(pipe, Request(PROMPTS[1], seed=3))
    leaver = ticket(pipe, Request(PROMPTS[0]), Request(PROMPTS[0], seed=1), previews=frozenset([0]))
    leaver.tell = lambda update: made.leave(leaver) if isinstance(update, Partial) else None
    rows: list[int] = []
    events = pipe.events
    pipe.events = lambda *args, **options: events(  # type: ignore[method-assign]
        *args, **options, tap=lambda name, k, tensor: rows.append(len(tensor)) if name == "embed" else None
    )
    made.submit(leaver)
    made.submit(stays)
    try:
        finished(made, stays, leaver)
    finally:
        del pipe.events
    assert rows[0] == 6 and set(rows[1:]) == {2}
    assert leaver.state is State.LEFT and stays.state is State.DONE and leaver.drawn == 0


def test_one_that_left_while_it_waited_is_never_drawn(pipe: Pipeline) -> None:
    made, gone = scheduler(pipe), ticket(pipe)
    made.submit(gone)
    made.leave(gone)
    made.leave(gone)
    assert made.waiting() == 0 and isinstance(gone.tell.error, Cancelled) and len(gone.tell.told) == 1  # type: ignore[attr-defined]


def test_deadlines_end_those_that_wait_and_those_that_are_drawn(pipe: Pipeline) -> None:
    made = scheduler(pipe, batch=1)
    drawn, waits = ticket(pipe, seconds=0.2, previews=frozenset([0])), ticket(pipe, seconds=0.2, name="b")
    drawn.tell = lambda update: time.sleep(0.3)
    made.submit(drawn)
    made.submit(waits)
    finished(made, drawn, waits)
    assert (drawn.state, waits.state) == (State.LATE, State.LATE) and isinstance(waits.tell.error, DeadlineError)  # type: ignore[attr-defined]


def test_a_closing_server_finishes_what_it_has_and_takes_no_more(pipe: Pipeline) -> None:
    made = scheduler(pipe, batch=1)
    tickets = [ticket(pipe, Request(PROMPTS[0], seed=seed)) for seed in range(3)]
    for each in tickets:
        made.submit(each)
    with running(made):
        made.close()
        with pytest.raises(ServiceError, match="stopping"):
            made.submit(ticket(pipe))
    assert all(each.state is State.DONE for each in tickets)


def test_a_thread_that_fails_lets_nobody_wait(pipe: Pipeline) -> None:
    def load() -> Any:
        raise MemoryError

    made, waits = Scheduler(load, Metrics()), ticket(pipe)
    made.submit(waits)
    made.run()
    assert isinstance(made.failure, MemoryError) and isinstance(waits.tell.error, ServiceError)  # type: ignore[attr-defined]


def test_a_client_alone_never_waits_and_a_crowd_stays_together(pipe: Pipeline) -> None:
    made = scheduler(pipe, wait=0.5)
    with batches(made) as sizes, running(made):
        began = time.monotonic()
        for seed in range(3):
            done = threading.Event()
            made.submit(ticket(pipe, Request(PROMPTS[0], seed=seed), tell=lambda update, done=done: done.set()))
            assert done.wait(10)
        alone = time.monotonic() - began
        crowd = [ticket(pipe, Request(PROMPTS[0], seed=seed), name=str(seed)) for seed in range(4)]
        for each in crowd:
            made.submit(each)
        while not all(each.state.ended for each in crowd):
            time.sleep(0.01)
        for seed in range(4):  # these come one after the other, and yet share a batch
            made.submit(late := ticket(pipe, Request(PROMPTS[1], seed=seed), name=str(seed)))
            time.sleep(0.02)
        while not late.state.ended:
            time.sleep(0.01)
    assert alone < 3 * 0.5 and sizes[:3] == [1, 1, 1] and sum(sizes) == 11
    assert len(sizes) <= 6


def test_what_was_drawn_is_counted(pipe: Pipeline) -> None:
    made = scheduler(pipe)
    for how in ("none", "drop_last(1)"):
        made.submit(ticket(pipe, Request(PROMPTS[0], accelerator=how)))
    finished(made)
    text = made._metrics.text().decode()
    kept, plain = (
        float(
            next(line for line in text.splitlines() if line.startswith(f'stagevar_rows_total{{kind="{kind}"')).split()[
                1
            ]
        )
        for kind in ("kept", "plain")
    )
    tokens = [h * w for h, w in pipe.model.schedule()]
    assert plain == 2 * 2 * sum(tokens) and kept == plain - 2 * tokens[-1]
    assert 'stagevar_orders_total{end="done"} 2.0' in text and "stagevar_batch_pictures_sum 2.0" in text


def test_pictures_in_the_compute_dtype_of_servers_are_bit_identical_at_every_company(pipe: Pipeline) -> None:
    """Each seed alone, and in batches of every size up to six."""
    assert pipe.dtype == torch.float32
    alone = [pipe(PROMPTS[i % 5], seed=i).images[0].tobytes() for i in range(6)]
    for size in range(2, 7):
        made = scheduler(pipe, batch=size)
        tickets = [ticket(pipe, Request(PROMPTS[i % 5], seed=i), name=str(i)) for i in range(6)]
        for each in tickets:
            made.submit(each)
        finished(made, *tickets)
        assert [each.tell.pictures[0] for each in tickets] == alone  # type: ignore[attr-defined]
