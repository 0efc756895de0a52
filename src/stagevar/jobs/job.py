"""A job from first row to last: read, leave out what is finished, draw, keep, note. A killed job goes on from there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from stagevar.errors import OutputError, RequestError
from stagevar.files import unwritable
from stagevar.jobs.drawn import Drawn
from stagevar.jobs.ledger import Ledger
from stagevar.jobs.rows import Bad, Numbered, Row, windows
from stagevar.jobs.store import SHARD_BYTES, Store

BESIDE, BAD = "job", "bad.jsonl"
"""Folder beside the pictures that holds the ledger, and its file of the rows that cannot be drawn."""

AHEAD = 8
"""Batches that are read at once, so that rows of one size find each other."""


class Draws(Protocol):
    """Whatever turns windows of rows into pictures: one model here, or workers of a cluster."""

    def __call__(self, rows: Iterable[Sequence[Numbered]], /) -> Iterator[list[Drawn] | Bad]: ...


@dataclass
class Progress:
    """How far a job is.

    Attributes:
        rows: rows of the input, 0 if that is not known.
        before: of those the ones that were finished when it began.
        drawn, bad: rows that this run has drawn, and refused.
        seconds: since the first row was asked for.
    """

    rows: int
    before: int = 0
    drawn: int = 0
    bad: int = 0
    seconds: float = 0.0

    @property
    def done(self) -> int:
        return self.before + self.drawn + self.bad

    @property
    def rate(self) -> float:
        """Pictures per second of this run."""
        return self.drawn / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Job:
    """Rows to pictures in a folder.

    Attributes:
        rows: the input, read once.
        store: where pictures go.
        settings: what all rows have in common, as plain data; another run of the job must have the same.
        batch_size: pictures at once.
    """

    rows: Iterable[Numbered | Bad]
    store: Store
    settings: dict[str, Any]
    batch_size: int = 16

    @property
    def bad_rows(self) -> Path:
        """File of the rows that cannot be drawn, as JSON lines with their reasons; made anew by every run."""
        return self.store.folder / BESIDE / BAD

    def open(self) -> Ledger:
        """The job's record, once it is clear that this job may write to its folder.

        Raises:
            OptionError: the folder holds a job with other settings, or another process works on it.
            OutputError: it cannot be written, or the place of the record is taken.
        """
        beside = self.store.folder / BESIDE
        path = beside / "ledger.sqlite"
        try:
            if beside.exists() and not path.exists() and any(beside.iterdir()):
                raise OutputError(f"{beside} is there already and is not of a job; give another folder")
        except OSError as error:
            raise unwritable(beside, error) from error
        return Ledger(path, self.settings | {"format": self.store.format})

    def run(
        self, ledger: Ledger, draw: Draws, total: int = 0, told: Callable[[Progress], object] | None = None
    ) -> Progress:
        """Draw all rows that are not finished.

        Args:
            ledger: of ``open``.
            draw: draws windows of rows.
            total: rows of the input, for the progress.
            told: is given the progress after every batch.

        Raises:
            OutputError: a picture cannot be written, or a shard of before is damaged. What was finished stays so.
            whatever ``draw`` raises.
        """
        self._look(ledger)
        progress, began, under_way = Progress(total), time.perf_counter(), dict[str, bytes]()
        with self._listed() as bad:
            for found in draw(self._unfinished(ledger, progress, bad, under_way)):
                if isinstance(found, Bad):
                    _note(bad, found, progress)
                else:
                    self._keep(ledger, found)
                    progress.drawn += len(found)
                for each in [found] if isinstance(found, Bad) else found:
                    under_way.pop(each.id, None)
                progress.seconds = time.perf_counter() - began
                if told is not None:
                    told(progress)
        self._shelve(ledger, least=1)
        if not progress.bad:
            with suppress(OSError):
                self.bad_rows.unlink()
        progress.seconds = time.perf_counter() - began
        return progress

    @contextmanager
    def _listed(self) -> Iterator[IO[str]]:
        """The file of bad rows, empty."""
        try:
            file = self.bad_rows.open("w", encoding="utf-8")
        except OSError as error:
            raise unwritable(self.bad_rows, error) from error
        try:
            yield file
        finally:
            try:
                file.close()
            except OSError as error:
                raise unwritable(self.bad_rows, error) from error

    def _unfinished(
        self, ledger: Ledger, progress: Progress, bad: IO[str], under_way: dict[str, bytes]
    ) -> Iterator[list[Numbered]]:
        """Windows of rows that are still to be drawn; their digests go into ``under_way``."""
        for window in windows(self.rows, AHEAD * self.batch_size):
            ids = [each.row.id for each in window if isinstance(each, Numbered)]
            known, begun = ledger.finished(ids), ledger.begun(ids)
            wanted = []
            for each in window:
                if isinstance(each, Bad):
                    _note(bad, each, progress)
                    continue
                name, digest = each.row.id, each.row.digest()
                before = known.get(name, under_way.get(name))
                if before == digest:
                    progress.before += 1
                elif before is not None:
                    reason = f"another row has the id {name}, or the row has changed since it was drawn"
                    _note(bad, Bad(each.number, name, reason), progress)
                elif reason := _refused(each.row) or self.store.refuses(name, begun=name in begun):
                    _note(bad, Bad(each.number, name, reason), progress)
                else:
                    under_way[name] = digest
                    wanted.append(each)
            if wanted:
                yield wanted

    def _keep(self, ledger: Ledger, drawn: list[Drawn]) -> None:
        if not self.store.shards:
            ledger.begin(each.id for each in drawn)
            self.store.write(drawn)
        ledger.finish(drawn, waiting=self.store.shards)
        self._shelve(ledger, least=self.store.shard_size)

    def _shelve(self, ledger: Ledger, least: int) -> None:
        """Write shards while at least so many pictures wait, or so many bytes."""
        while self.store.shards and ((waiting := ledger.waiting)[0] >= least or waiting[1] >= SHARD_BYTES):
            drawn = ledger.next_for_shard(self.store.shard_size)
            self._require_free(ledger)
            ledger.begin_shard()
            path = self.store.write_shard(ledger.shard, drawn)
            ledger.shelve((each.id for each in drawn), path.stat().st_size)

    def _require_free(self, ledger: Ledger) -> None:
        """Raise if another's file lies where the next shard goes.

        Raises:
            OutputError
        """
        path = self.store.shard(ledger.shard)
        if self.store.shards and os.path.lexists(path) and not ledger.shard_begun:
            raise OutputError(f"{path} is there already, and not from this job; move it and run again")

    def _look(self, ledger: Ledger) -> None:
        """Have the rows of pictures and shards that were removed drawn again.

        Raises:
            OutputError: a shard has another size than when it was written, or the next one's place is taken.
        """
        if not self.store.shards:
            ledger.keep(self.store.names())
        for number, size in ledger.shards.items():
            path = self.store.shard(number)
            if not path.exists():
                ledger.forget(number)
            elif (found := path.stat().st_size) != size:
                said = f"{path} is damaged: it has {found} bytes, and {size} were written"
                raise OutputError(f"{said}; remove it, and its rows are drawn again")
        self._require_free(ledger)


def _refused(row: Row) -> str:
    """Why no model can draw a row, or ""."""
    try:
        row.request(0)
    except RequestError as error:
        return str(error)
    return ""


def _note(file: IO[str], bad: Bad, progress: Progress) -> None:
    try:
        file.write(json.dumps(asdict(bad)) + "\n")
        file.flush()
    except OSError as error:
        raise unwritable(Path(file.name), error) from error
    progress.bad += 1
