"""What the processes of one run tell one another: through the store that torchrun keeps, as JSON.

No process waits in a collective operation, so one that fails never leaves another hanging.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from stagevar.parallel.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

Value = TypeVar("Value")

FAILED = "failed"
PAUSE = 0.02
"""Seconds between two looks at the store."""


class Elsewhere(SystemExit):
    """Another process of the run has failed, and has said why. This one ends with the same exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code)
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Team:
    """The processes of one run.

    Attributes:
        ranks: which of them this one is.
        store: what they share; None if this process runs alone.
    """

    ranks: Ranks
    store: Store | None = None

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all: it names files, fetches weights and prints the summary."""
        return self.ranks.rank == 0

    def told(self, key: str, make: Callable[[], Value]) -> Value:
        """What the first process makes; the others wait for it.

        Args:
            key: its name; each is told once.
            make: called by the first process only.

        Raises:
            Elsewhere: another process failed.
        """
        if self.store is None:
            return make()
        if self.leads:
            value = make()
            self.put(key, value)
            return value
        self._await([key])
        told: Value = json.loads(self.store.get(key))
        return told

    def put(self, key: str, value: object) -> None:
        """Show a value to the other processes."""
        if self.store is not None:
            self.store.set(key, json.dumps(value))

    def found(self, keys: Iterable[str]) -> list[Any]:
        """The values of those keys that some process has put so far, in the order of the keys."""
        assert self.store is not None
        return [json.loads(self.store.get(key)) for key in keys if self.store.check([key])]

    def finish(self) -> None:
        """Say that this process has done its share; the first one waits until all have.

        Raises:
            Elsewhere: another process failed.
        """
        if self.store is not None:
            self.put(f"done.{self.ranks.rank}", True)
            if self.leads:
                self._await([f"done.{rank}" for rank in range(self.ranks.world)])

    def broken(self) -> bool:
        """Whether some process has failed."""
        return self.store is not None and self.store.check([FAILED])

    def part(self) -> None:
        """Ignore the signals by which torchrun ends the other processes of a failed run: this one is ending already."""
        if self.store is not None:
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_IGN)

    def _await(self, keys: list[str]) -> None:
        assert self.store is not None
        while not self.store.check(keys):
            if self.broken():
                raise self._elsewhere()
            time.sleep(PAUSE)

    def _elsewhere(self) -> Elsewhere:
        assert self.store is not None
        _, code, message = json.loads(self.store.get(FAILED))
        return Elsewhere(code, message)

    @contextmanager
    def failing(self, explain: Callable[[BaseException], tuple[int, str]]) -> Iterator[None]:
        """The first failure of the run stays as it is; all others become ``Elsewhere``, so that one process speaks.

        Args:
            explain: exit code and line of an error.
        """
        try:
            yield
        except Elsewhere:
            self.part()
            raise
        except BaseException as error:
            if self.store is None or (isinstance(error, SystemExit) and not error.code):
                raise
            self.part()
            code, line = explain(error)
            first = self.store.compare_set(FAILED, "", json.dumps([self.ranks.rank, code, line]))
            if json.loads(first)[0] == self.ranks.rank:
                raise
            raise self._elsewhere() from None


@cache
def team() -> Team:
    """The processes of this run.

    Raises:
        OptionError: the environment names processes that cannot be.
    """
    ranks = Ranks.here()
    if ranks.world == 1:
        return Team(ranks)
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return Team(ranks, PrefixStore("stagevar", store))
