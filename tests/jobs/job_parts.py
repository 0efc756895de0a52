"""Parts of the tests of jobs: rows, and what stands in for the model."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from stagevar.errors import Cancelled
from stagevar.jobs.drawn import Drawn
from stagevar.jobs.job import Job, Progress
from stagevar.jobs.rows import Bad, Numbered, Row

COUNT = 10


def numbered(count: int = COUNT) -> list[Numbered]:
    return [Numbered(i + 1, Row(f"r{i}", str(i % 4))) for i in range(count)]


class Stand:
    """Draws nothing, and notes what it was asked for. Raises before the given picture."""

    def __init__(self, fails_before: int = -1) -> None:
        self.asked: list[str] = []
        self.fails_before = fails_before

    def __call__(self, rows: Iterable[Sequence[Numbered]]) -> Iterator[list[Drawn] | Bad]:
        for window in rows:
            for each in window:
                if len(self.asked) == self.fails_before:
                    raise Cancelled
                self.asked.append(each.row.id)
                record = {"id": each.row.id, "prompt": "a", "seed": 1, "accelerator": "none"}
                yield [Drawn(each.row.id, each.row.digest(), b"png", record | {"stagevar": "0", "scales": []})]


def run(job: Job, stand: Stand) -> Progress:
    with job.open() as ledger:
        return job.run(ledger, stand)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def archives(folder: Path) -> list[list[str]]:
    """Names of the members of each archive."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            found.append(archive.getnames())
    return found
