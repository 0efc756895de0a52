"""A job on Ray: workers draw, here or on other machines, and the process that began the job keeps and notes.

Rows stream from that process and pictures back to it, so that its memory does not grow with the job, and the ledger has
one writer. A worker that dies is replaced. The rows that it had are drawn once more, and given up if they end another
worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stagevar.errors import StagevarError, first_line
from stagevar.jobs.drawn import Drawer, Drawn
from stagevar.jobs.rows import Bad, Numbered
from stagevar.on_ray import connected, require_cluster, shares

QUEUED = 2
"""Parts per worker: one that it draws, and one that waits for it."""

ATTEMPTS = 2
"""Workers that a part may end before its rows count as bad."""

ENDED = "two workers ended while they drew it or rows beside it"

LOOK = 5.0
"""Seconds without a picture after which it is looked whether the cluster is still there."""

DEATHS = 5
"""Workers that may end one after the other before the job does."""


class Worker:
    """Draws windows of rows in a process of its own, with a model of its own.

    Args:
        load: arguments of ``Pipeline.from_pretrained``.
        seed, batch_size: as in ``Drawer``.
    """

    def __init__(self, load: Mapping[str, Any], seed: int, batch_size: int) -> None:
        self._load, self._seed, self._batch_size = load, seed, batch_size

    @cached_property
    def _drawer(self) -> Drawer:
        """Loaded by the first call: what fails in a constructor, Ray reports without its cause."""
        from stagevar.pipeline import Pipeline

        return Drawer(Pipeline.from_pretrained(**self._load), self._seed, self._batch_size)

    def draw(self, rows: Sequence[Numbered]) -> list[list[Drawn] | Bad]:
        """All that becomes of a window."""
        return list(self._drawer(rows))


@dataclass(slots=True)
class _Part:
    """Rows that some worker draws, and how many workers they have ended."""

    rows: Sequence[Numbered]
    ended: int = 0


@dataclass
class Cluster:
    """Draws a job's rows on Ray; a context, so that its workers end with it.

    Attributes:
        load: arguments of ``Pipeline.from_pretrained`` for each worker.
        seed, batch_size: as in ``Drawer``.
        workers: how many; 0 takes one per GPU of the cluster, or without any one per two CPUs.
        address: of a running cluster; "" starts one on this machine.
        kind: class of the workers.

    Raises:
        MissingExtraError: Ray is not installed.
        OptionError: there is no cluster at the address, or it has too few devices.
        StagevarError: what loading the model raises.
    """

    load: Mapping[str, Any]
    seed: int
    batch_size: int
    workers: int = 0
    address: str = ""
    kind: type[Worker] = Worker
    _ray: Any = field(init=False, repr=False)
    _actor: Any = field(init=False, repr=False)
    _pool: list[Any] = field(init=False, repr=False)
    _ends: ExitStack = field(init=False, repr=False)

    def __enter__(self) -> Cluster:
        with ExitStack() as ends:
            self._ray = ends.enter_context(connected(self.address))
            count, needs = shares(self._ray, self.workers)
            self._actor = self._ray.remote(**needs)(self.kind)
            self._pool = [self._new() for _ in range(count)]
            try:
                self._ray.get([worker.draw.remote([]) for worker in self._pool])
            except self._ray.exceptions.RayError as error:
                raise _ours(error) from None
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def _new(self) -> Any:
        return self._actor.remote(self.load, self.seed, self.batch_size)

    def __call__(self, rows: Iterable[Sequence[Numbered]]) -> Iterator[list[Drawn] | Bad]:
        """Draw windows of rows, in the order in which workers finish them.

        Raises:
            ServiceError: the cluster has gone.
            StagevarError: a worker failed, or several ended one after the other.
        """
        windows, again = _parts(rows, self.batch_size), deque[_Part]()
        running: dict[Any, tuple[int, _Part]] = {}
        free, deaths = deque(index for _ in range(QUEUED) for index in range(len(self._pool))), 0
        while True:
            while free and (part := again.popleft() if again else next(windows, None)):
                index = free.popleft()
                running[self._pool[index].draw.remote(part.rows)] = index, part
            if not running:
                return
            ready, _ = self._ray.wait(list(running), num_returns=1, timeout=LOOK)
            if not ready:
                require_cluster(self._ray)
                continue
            reference = ready[0]
            index, part = running.pop(reference)
            try:
                found = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                deaths += 1
                if deaths > DEATHS:
                    raise StagevarError(f"{deaths} workers ended one after the other: {first_line(error)}") from None
                lost = [part, *(running.pop(each)[1] for each, at in list(running.items()) if at[0] == index)]
                free.extend([index] * len(lost))
                self._pool[index] = self._new()
                part.ended += 1
                if part.ended < ATTEMPTS:
                    again.extend(lost)
                else:
                    again.extend(lost[1:])
                    yield from (Bad(each.number, each.row.id, ENDED) for each in part.rows)
            except self._ray.exceptions.RayError as error:
                raise _ours(error) from None
            else:
                deaths = 0
                free.append(index)
                yield from found


def _parts(windows: Iterable[Sequence[Numbered]], size: int) -> Iterator[_Part]:
    """Rows as they are dealt out: as many as are drawn at once, those of one picture size together."""
    for window in windows:
        alike = sorted(window, key=lambda each: repr((each.row.height, each.row.width, each.row.aspect_ratio)))
        for start in range(0, len(alike), size):
            yield _Part(alike[start : start + size])


def _ours(error: Exception) -> StagevarError:
    """A worker's failure as an error of ours."""
    cause = getattr(error, "cause", None)
    return (
        cause if isinstance(cause, StagevarError) else StagevarError(f"a worker failed: {first_line(cause or error)}")
    )
