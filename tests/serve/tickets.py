"""Requests for the scheduler, without HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stagevar.errors import StagevarError
from stagevar.pipeline import Pipeline
from stagevar.request import Request
from stagevar.serve.metrics import Metrics
from stagevar.serve.scheduler import Scheduler
from stagevar.serve.ticket import Finished, Ticket, Update

PROMPTS = ("a red circle", "two yellow rings", "a star above a cross", "a pink square", "three green stars")


class Client:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Update] = []
        self.done = threading.Event()

    def __call__(self, update: Update) -> None:
        self.told.append(update)

    @property
    def error(self) -> StagevarError | None:
        return next((update for update in self.told if isinstance(update, StagevarError)), None)

    @property
    def pictures(self) -> list[bytes]:
        finished = sorted((each for each in self.told if isinstance(each, Finished)), key=lambda each: each.picture)
        return [each.image.tobytes() for each in finished]


def ticket(pipe: Pipeline, *requests: Request, name: str = "a", seconds: float = 60, **more: Any) -> Ticket:
    given: dict[str, Any] = {"previews": frozenset(), "tell": Client(), "model": "scenes", **more}
    prepared = [pipe.prepare(request) for request in requests or (Request(PROMPTS[0]),)]
    return Ticket(name, prepared=prepared, deadline=time.monotonic() + seconds, **given)


def scheduler(pipe: Pipeline, **settings: Any) -> Scheduler:
    """One whose thread does not run."""
    made = Scheduler(lambda: {"scenes": pipe}, Metrics(), **settings)
    made.pipelines = {"scenes": pipe}
    return made


@contextmanager
def running(made: Scheduler) -> Iterator[Scheduler]:
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()


def finished(made: Scheduler, *tickets: Ticket) -> None:
    """Let the thread draw what is there, and end."""
    with running(made):
        pass
    assert all(each.state.ended for each in tickets)
