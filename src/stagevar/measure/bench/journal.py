"""Measured batches as JSON lines: appended, never rewritten, so that a killed run loses the batch at hand alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from subprocess import run
from typing import Any

import stagevar
from stagevar.measure.bench.taken import Taken
from stagevar.measure.lines import append, mend, read_lines, strange

FORMAT = "stagevar bench 1"


class Journal:
    """The lines of a file.

    Args:
        path: of the file; made when the first batch is noted.

    Raises:
        OptionError: a line that is none of a benchmark.
        OutputError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.batches = path, list[tuple[Any, tuple[str, int], Taken]]()
        for number, line in enumerate(read_lines(path, [json.dumps({"format": FORMAT})[:-1]]), 1):
            try:
                batch = str(line["accelerator"]), int(line["start"])
                self.batches.append((line["conditions"], batch, Taken(**line["taken"])))
            except (KeyError, TypeError, ValueError):
                raise strange(path, number) from None
        mend(path)

    def known(self, conditions: Mapping[str, Any]) -> dict[tuple[str, int], Taken]:
        """The batches that were measured under these conditions, by accelerator and first picture."""
        alike = json.loads(json.dumps(conditions))
        return {batch: taken for own, batch, taken in self.batches if own == alike}

    def add(self, conditions: Mapping[str, Any], accelerator: str, start: int, taken: Taken) -> None:
        """Append a batch, with the date and the commit of the code.

        Raises:
            OutputError: it cannot be written.
        """
        line: dict[str, Any] = {"format": FORMAT, **stamp(), "conditions": dict(conditions)}
        append(self.path, [line | {"accelerator": accelerator, "start": start, "taken": taken.to_dict()}])


def stamp() -> dict[str, str]:
    """Date, and the commit of the checkout that the code is in, with ``-dirty`` if files differ from it; empty where it
    is in none."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit()}


def commit() -> str:
    folder = str(Path(stagevar.__file__).parent)

    def git(*words: str) -> str:
        try:
            found = run(["git", "-C", folder, *words], capture_output=True, text=True, check=False)
        except OSError:
            return ""
        return found.stdout.strip() if found.returncode == 0 else ""

    if not git("ls-files", "--", "__init__.py"):
        return ""
    return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno", "--", ".") else "")
