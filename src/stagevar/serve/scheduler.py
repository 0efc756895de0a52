"""Requests wait, share batches and end; the file follows a request from top to bottom."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Condition, Lock, Thread

from PIL.Image import Image

from stagevar.cores import Cores, default_lanes
from stagevar.errors import BusyError, Cancelled, DeadlineError, ServiceError, StagevarError
from stagevar.pipeline import MAX_BATCH, Pipeline
from stagevar.result import ScaleEvent
from stagevar.serve.metrics import Metrics
from stagevar.serve.ticket import Finished, Partial, Picture, State, Ticket
from stagevar.serve.turns import Turns

log = logging.getLogger(__name__)


class Scheduler:
    """Draws the requests of many clients with the models that one process holds.

    Pictures of one model and size share a batch, whatever their prompts, seeds, guidance and accelerators. A batch
    waits for as many pictures as the last one held, but no longer than ``wait``: a client alone never waits. Each lane
    draws one batch at a time, in a thread of its own; lanes without work share the pictures that wait.

    Args:
        load: gives the models by name; called in the first thread that draws.
        metrics: is told what happens.
        batch: most pictures that are drawn at once, of which each lane has its share.
        wait: most seconds that a batch waits for more pictures while nothing is drawn.
        queue: pictures that may wait; a request beyond is refused.
        lanes: batches that are drawn at once, at most ``batch``; 0 is as many as ``default_lanes`` says.

    Attributes:
        pipelines: the models by name; empty until they are loaded.
        failure: what ended a thread that draws, if something did.
        closing: whether new requests are refused.
    """

    def __init__(
        self,
        load: Callable[[], Mapping[str, Pipeline]],
        metrics: Metrics,
        *,
        batch: int = MAX_BATCH,
        wait: float = 0.01,
        queue: int = 64,
        lanes: int = 1,
    ) -> None:
        self.pipelines: Mapping[str, Pipeline] = {}
        self.failure: BaseException | None = None
        self._load, self._metrics = load, metrics
        self._batch, self._wait, self._queue, self._lanes = batch, wait, queue, lanes
        self._turns, self._changed, self.closing = Turns(), Condition(), False
        self._cores, self._reading = Cores(), Lock()
        self._company, self._pace = 1, 0.0
        metrics.queue.set_function(self.waiting)

    def waiting(self) -> int:
        """Pictures in the queue."""
        with self._changed:
            return len(self._turns)

    def submit(self, ticket: Ticket) -> None:
        """Put a request into the queue.

        Raises:
            BusyError: the queue is full; says after how many seconds it may have room.
            ServiceError: the server is stopping.
        """
        with self._changed:
            waiting = len(self._turns)
            if self.closing:
                raise ServiceError("the server is stopping; ask again when it is back")
            if waiting >= self._queue:
                seconds = max(1, math.ceil(waiting * self._pace))
                raise BusyError(f"{waiting} pictures are waiting already; try again in {seconds} s", seconds)
            self._turns.add(ticket)
            self._changed.notify_all()

    def leave(self, ticket: Ticket) -> None:
        """The client of a request has gone: its pictures are drawn no further than the scale at hand."""
        self._end(ticket, State.LEFT, Cancelled("the client has gone"))

    def close(self) -> None:
        """Refuse new requests; ``run`` returns when those accepted have ended."""
        with self._changed:
            self.closing = True
            self._changed.notify_all()

    def run(self) -> None:
        """Load the models, then draw in all lanes until ``close``."""
        try:
            self.pipelines = self._load()
            self._lanes = min(self._lanes or default_lanes(self.pipelines.values()), self._batch)
            others = [Thread(target=self._lane, daemon=True) for _ in range(self._lanes - 1)]
            for other in others:
                other.start()
            self._lane()
            for other in others:
                other.join()
        except BaseException as error:
            self.failure = error  # for the thread that serves, which then ends
        finally:
            self.close()
            for ticket in self._turns:
                self._end(ticket, State.FAILED, ServiceError("the server has stopped"))

    def _lane(self) -> None:
        """Draw batch after batch. What ends one lane ends all."""
        try:
            while batch := self._next():
                began = time.monotonic()
                self._draw(self._read(batch))
                self._pace = (time.monotonic() - began) / len(batch) / self._cores.busy
                self._cores.end()
        except BaseException as error:
            self.failure = error
            self.close()

    def _next(self) -> list[Picture]:
        """The pictures of a lane's next batch; none once a lane has failed, or all is drawn after ``close``."""
        with self._changed:
            until = None
            while self.failure is None:
                self._expire()
                waiting, now = len(self._turns), time.monotonic()
                if not waiting:
                    if self.closing:
                        return []
                    self._changed.wait()
                    until = None
                    continue
                until = until or now + self._wait
                if waiting >= min(self._company, self._batch // self._lanes) or now >= until or self.closing:
                    return self._taken()
                self._changed.wait(until - now)
            return []

    def _taken(self) -> list[Picture]:
        """The next picture, and others of its kind as the turns go; as many are left to each lane without work."""
        batch: list[Picture] = []
        share = math.ceil(len(self._turns) / max(1, self._lanes - self._cores.busy))
        while len(batch) < min(share, self._batch // self._lanes):
            picture = self._turns.take(batch[0].ticket.kind if batch else None)
            if picture is None:
                break
            picture.ticket.state = State.DRAWING
            batch.append(picture)
        self._company = len(batch)
        self._cores.begin()
        return batch

    def _read(self, batch: Sequence[Picture]) -> list[Picture]:
        """The pictures of a batch whose prompts the model can read. Equal texts of a request are read once."""
        pipe = self.pipelines[batch[0].ticket.model]
        with self._reading:
            for ticket in {picture.ticket: None for picture in batch}:
                self._read_one(pipe, ticket)
        return [picture for picture in batch if not picture.ticket.state.ended]

    def _read_one(self, pipe: Pipeline, ticket: Ticket) -> None:
        """Read the prompt of a request, if that has not been done for others of its pictures."""
        request = ticket.prepared[0].request
        if request.encoded is not None or request.unconditional:
            return
        try:
            prompt = pipe.encode(request.prompt)
            negative = pipe.encode(request.negative_prompt) if request.negative_prompt else None
        except Exception as error:
            self._fail(ticket, error)
            return
        ticket.prepared[:] = [
            replace(each, request=replace(each.request, encoded=prompt, negative_encoded=negative))
            for each in ticket.prepared
        ]

    def _draw(self, batch: Sequence[Picture]) -> None:
        """Draw pictures of one kind. If that fails, each half is drawn by itself, so that a picture that cannot be
        drawn fails alone."""
        if not batch:
            return
        self._cores.share()
        pipe, began = self.pipelines[batch[0].ticket.model], time.monotonic()
        requests = [picture.prepared.request for picture in batch]
        try:
            for event in pipe.events(requests, batch_size=len(batch), wanted=lambda i: self._wanted(batch[i].ticket)):
                self._show(batch, event)
                with self._changed:
                    self._expire()
                self._cores.share()
            assert event.result is not None
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0].ticket, error)
                return
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                self._draw([picture for picture in half if not picture.ticket.state.ended])
            return
        self._metrics.drawn(pipe.model, event, time.monotonic() - began)
        for picture, image in zip(batch, event.result.images, strict=True):
            if image is not None:
                self._finish(picture, image)

    def _wanted(self, ticket: Ticket) -> bool:
        """Whether a request's pictures are drawn on; asked before every scale."""
        if time.monotonic() >= ticket.deadline:
            self._late(ticket)
        return not ticket.state.ended

    def _show(self, batch: Sequence[Picture], event: ScaleEvent) -> None:
        """Tell the clients that want to see their pictures as they stand."""
        due = []
        for place, image in enumerate(event.images if event.scale < event.scales - 1 else ()):
            ticket, key = batch[image].ticket, (batch[image].index, event.scale)
            if event.scale in ticket.previews and key not in ticket.shown and not ticket.state.ended:
                ticket.shown.add(key)
                due.append(place)
        if due:
            for place, shown in zip(due, event.decode(event.latent[due])(), strict=True):
                picture = batch[event.images[place]]
                picture.ticket.tell(Partial(picture.index, event.scale, shown))

    def _finish(self, picture: Picture, image: Image) -> None:
        """Tell a client its picture; its request is done with the last one."""
        ticket = picture.ticket
        with self._changed:
            if ticket.state.ended:
                return
            ticket.drawn += 1
            ticket.tell(Finished(picture.index, image))
            if ticket.drawn == len(ticket.prepared):
                self._end(ticket, State.DONE)

    def _expire(self) -> None:
        """End the requests that have waited too long. The caller holds the lock."""
        now = time.monotonic()
        for ticket in self._turns:
            if now >= ticket.deadline:
                self._late(ticket)

    def _late(self, ticket: Ticket) -> None:
        self._end(ticket, State.LATE, DeadlineError("the picture was not drawn in time; ask again, or for fewer"))

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        """A request that cannot be drawn; what is no error of the table is the server's own fault."""
        if not isinstance(error, StagevarError):
            log.error("drawing failed", exc_info=error)
            error = StagevarError("the server failed to draw this; its log says why")
        self._end(ticket, State.FAILED, error)

    def _end(self, ticket: Ticket, state: State, error: StagevarError | None = None) -> None:
        """The last state of a request, whose pictures wait no longer."""
        with self._changed:
            if ticket.state.ended:
                return
            ticket.state = state
            self._turns.remove(ticket)
            self._metrics.ended(state)
            if error is not None:
                ticket.tell(error)
