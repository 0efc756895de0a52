"""A job on Ray: workers draw, here or on other machines, and the process that began the job keeps and notes.

Rows stream from that process and pictures back to it, so that its memory does not grow with the job, and the ledger has
one writer. A worker that dies is replaced. The rows that it had are drawn once more, and given up if they end another
worker.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stagevar.errors import MissingExtraError, OptionError, StagevarError, first_line
from stagevar.jobs.drawn import Drawer, Drawn
from stagevar.jobs.rows import Bad, Numbered

QUEUED = 2
"""Windows per worker: one that it draws, and one that waits for it."""

ATTEMPTS = 2
"""Workers that a window may end before its rows count as bad."""

ENDED = "two workers ended while they drew it or rows beside it"

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
class _Window:
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
    _ends: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> Cluster:
        try:
            import ray
        except ImportError:
            raise MissingExtraError("ray", "ray") from None
        self._ray: Any = ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self.address:
                ray.init(address=self.address, **quiet)
            else:
                ray.init(address="local", include_dashboard=False, **quiet)
        except Exception as error:
            raise OptionError(
                f"there is no Ray cluster at {self.address or 'this machine'}: {first_line(error)}"
            ) from None
        self._ends.callback(ray.shutdown)
        try:
            self._start()
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def _start(self) -> None:
        has = self._ray.cluster_resources()
        gpus, cpus = int(has.get("GPU", 0)), int(has.get("CPU", 1))
        count = self.workers or gpus or max(1, cpus // 2)
        if count > (gpus or cpus):
            raise OptionError(f"{count} workers need a device each; the cluster has {gpus} GPUs and {cpus} CPUs")
        needs = {"num_gpus": 1} if gpus else {"num_cpus": cpus // count}
        self._kind = self._ray.remote(**needs)(Worker)
        self._pool = [self._new() for _ in range(count)]
        try:
            self._ray.get([worker.draw.remote([]) for worker in self._pool])
        except self._ray.exceptions.RayError as error:
            raise _ours(error) from None

    def _new(self) -> Any:
        return self._kind.remote(self.load, self.seed, self.batch_size)

    def __call__(self, rows: Iterable[Sequence[Numbered]]) -> Iterator[list[Drawn] | Bad]:
        """Draw windows of rows, in the order in which workers finish them."""
        windows, again = iter(rows), deque[_Window]()
        running: dict[Any, tuple[int, _Window]] = {}
        free, deaths = deque(index for _ in range(QUEUED) for index in range(len(self._pool))), 0
        while True:
            while free and (window := again.popleft() if again else _next(windows)):
                index = free.popleft()
                running[self._pool[index].draw.remote(window.rows)] = index, window
            if not running:
                return
            (reference,), _ = self._ray.wait(list(running), num_returns=1)
            index, window = running.pop(reference)
            try:
                found = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                deaths += 1
                if deaths > DEATHS:
                    raise StagevarError(f"{deaths} workers ended one after the other: {first_line(error)}") from None
                lost = [window, *(running.pop(each)[1] for each, at in list(running.items()) if at[0] == index)]
                free.extend([index] * len(lost))
                self._pool[index] = self._new()
                window.ended += 1
                if window.ended < ATTEMPTS:
                    again.extend(lost)
                else:
                    again.extend(lost[1:])
                    yield from (
                        Bad(each.number, each.row.id, "two workers ended while they drew it") for each in window.rows
                    )
            except self._ray.exceptions.RayError as error:
                raise _ours(error) from None
            else:
                deaths = 0
                free.append(index)
                yield from found


def _next(windows: Iterator[Sequence[Numbered]]) -> _Window | None:
    rows = next(windows, None)
    return None if rows is None else _Window(rows)


def _ours(error: Exception) -> StagevarError:
    """A worker's failure as an error of ours."""
    cause = getattr(error, "cause", None)
    return (
        cause if isinstance(cause, StagevarError) else StagevarError(f"a worker failed: {first_line(cause or error)}")
    )
