"""Which rows of a job are finished: one SQLite file, so that a kill at any moment leaves a whole record."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stagevar.errors import OptionError, OutputError, quoted
from stagevar.jobs.drawn import Drawn

TABLES = """
CREATE TABLE IF NOT EXISTS job (settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS finished (id TEXT PRIMARY KEY, digest BLOB NOT NULL, shard INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS begun (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waiting (place INTEGER PRIMARY KEY, id TEXT, png BLOB, record TEXT);
CREATE TABLE IF NOT EXISTS shards (number INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
"""

AT_ONCE = 500
"""Ids per question; SQLite takes at most 999 variables."""


class Ledger:
    """The record of a job, for one process at a time.

    A row is finished once its picture is safe: on disk as a file, or waiting in here for the shard that it goes into.

    Args:
        path: of the file; it is made if it is not there.
        settings: what all rows of the job have in common, as plain data.

    Raises:
        OptionError: the record is of a job with other settings, which the message names, or another process has it.
        OutputError: it cannot be written, or is no such record.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._begin(settings)
        except BaseException:
            self._db.close()
            raise

    def _begin(self, settings: Mapping[str, Any]) -> None:
        """Take the file, if it is no other program's, and compare the settings with those that it holds."""
        with self._told():
            if self._db.execute("SELECT name FROM sqlite_master").fetchone():
                self._db.execute("SELECT settings FROM job")
            for name, value in (("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL"), ("synchronous", "NORMAL")):
                self._db.execute(f"PRAGMA {name}={value}")
            self._db.executescript(TABLES)
            with self._transaction():
                known = self._db.execute("SELECT settings FROM job").fetchone()
                if known is None:
                    self._db.execute("INSERT INTO job VALUES (?)", (json.dumps(dict(settings)),))
        for name, value in self._settings(known[0]).items() if known else ():
            if settings.get(name) != value:
                said = f"{self.path.parent.parent} holds a job with {name} {quoted(value)}, not"
                raise OptionError(f"{said} {quoted(settings.get(name))}; give the same to go on, or another folder")

    def _settings(self, text: str) -> dict[str, Any]:
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            raise OutputError(f"{self.path} is damaged: its settings are no JSON; give another folder") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._db.close()

    @property
    def count(self) -> int:
        """Rows that are finished."""
        with self._told():
            return int(self._db.execute("SELECT COUNT(*) FROM finished").fetchone()[0])

    def finished(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Those of the given rows that are finished, and the digest of each."""
        return dict(self._chosen("id, digest FROM finished", ids))

    def begun(self, ids: Sequence[str]) -> set[str]:
        """Those of the given rows whose files this job has written to, and which are not finished."""
        return {name for (name,) in self._chosen("id FROM begun", ids)}

    def _chosen(self, what: str, ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        with self._told():
            for start in range(0, len(ids), AT_ONCE):
                part = ids[start : start + AT_ONCE]
                yield from self._db.execute(f"SELECT {what} WHERE id IN ({','.join('?' * len(part))})", part)

    def begin(self, ids: Iterable[str]) -> None:
        """Note that files of rows are being written."""
        with self._told(), self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO begun VALUES (?)", ((each,) for each in ids))

    def keep(self, there: Iterable[str]) -> None:
        """Note which pictures are there as files. The others are no longer finished, so that they are drawn again."""
        with self._told(), self._transaction():
            self._db.execute("CREATE TEMP TABLE there (id TEXT PRIMARY KEY) WITHOUT ROWID")
            self._db.executemany("INSERT INTO there VALUES (?)", ((each,) for each in there))
            self._db.execute("INSERT INTO begun SELECT id FROM finished WHERE id NOT IN there")
            self._db.execute("DELETE FROM finished WHERE id NOT IN there")
            self._db.execute("DROP TABLE there")

    def finish(self, drawn: Sequence[Drawn], *, waiting: bool) -> None:
        """Note rows as finished; with ``waiting`` their pictures are kept here until ``shelve``."""
        with self._told(), self._transaction():
            self._db.executemany("DELETE FROM begun WHERE id = ?", [(each.id,) for each in drawn])
            noted = [(each.id, each.digest) for each in drawn]
            self._db.executemany("INSERT INTO finished (id, digest) VALUES (?, ?)", noted)
            if waiting:
                kept = [(each.id, each.png, json.dumps(each.record)) for each in drawn]
                self._db.executemany("INSERT INTO waiting (id, png, record) VALUES (?, ?, ?)", kept)

    @property
    def waiting(self) -> tuple[int, int]:
        """Pictures that wait for their shard, and their bytes."""
        with self._told():
            pictures, size = self._db.execute("SELECT COUNT(*), TOTAL(LENGTH(png)) FROM waiting").fetchone()
            return int(pictures), int(size)

    @property
    def shard(self) -> int:
        """Number of the next shard."""
        with self._told():
            found = self._db.execute("SELECT COALESCE(MAX(number) + 1, 0) FROM shards WHERE bytes > 0").fetchone()
            return int(found[0])

    @property
    def shard_begun(self) -> bool:
        """Whether this job has begun to write the next shard."""
        number = self.shard
        with self._told():
            return bool(self._db.execute("SELECT COUNT(*) FROM shards WHERE number = ?", (number,)).fetchone()[0])

    def begin_shard(self) -> None:
        """Note that the next shard is being written."""
        with self._told(), self._transaction():
            self._db.execute("INSERT OR REPLACE INTO shards VALUES (?, 0)", (self.shard,))

    @property
    def shards(self) -> dict[int, int]:
        """The bytes of every shard on disk, by its number."""
        with self._told():
            return dict(self._db.execute("SELECT number, bytes FROM shards WHERE bytes > 0"))

    def next_for_shard(self, most: int) -> list[Drawn]:
        """The pictures that have waited longest."""
        with self._told():
            rows = self._db.execute("SELECT id, png, record FROM waiting ORDER BY place LIMIT ?", (most,))
            return [Drawn(name, b"", png, json.loads(record)) for name, png, record in rows]

    def shelve(self, ids: Iterable[str], size: int) -> None:
        """Note that the next shard, which holds these rows in so many bytes, is on disk."""
        with self._told(), self._transaction():
            number, known = self.shard, list(ids)
            self._db.execute("INSERT OR REPLACE INTO shards VALUES (?, ?)", (number, size))
            self._db.executemany("UPDATE finished SET shard = ? WHERE id = ?", [(number, each) for each in known])
            self._db.executemany("DELETE FROM waiting WHERE id = ?", [(each,) for each in known])

    def forget(self, shard: int) -> None:
        """Note that a shard is no longer there, so that its rows are drawn again."""
        with self._told(), self._transaction():
            self._db.execute("DELETE FROM finished WHERE shard = ?", (shard,))
            self._db.execute("DELETE FROM shards WHERE number = ?", (shard,))

    @contextmanager
    def _transaction(self) -> Any:
        self._db.execute("BEGIN")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _told(self) -> Any:
        """Failures of the file as errors of ours."""
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from error
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                said = f"another process works on {self.path.parent.parent}; wait for it, or stop it"
                raise OptionError(said) from None
            if "no such" in str(error):
                raise self._damaged(error) from None
            raise OutputError(f"cannot write {self.path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> OutputError:
        return OutputError(f"{self.path} is damaged or no record of a job: {error}; give another folder")
