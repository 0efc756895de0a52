"""Measured batches as JSON lines: appended, never rewritten, so that a killed run loses the batch at hand alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from subprocess import run
from typing import Any

import stagevar
from stagevar.errors import OptionError
from stagevar.files import unwritable
from stagevar.measure.bench.taken import Taken

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
        self.path, self.lines = path, list[dict[str, Any]]()
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise unwritable(path, OSError(str(error))) from None
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a run that was killed while it wrote
            path.write_text(whole, encoding="utf-8")
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            if not isinstance(found, dict) or found.get("format") != FORMAT:
                raise OptionError(f"{path}, line {number}: no line of this version ({FORMAT!r}); choose another folder")
            self.lines.append(found)

    def known(self, conditions: Mapping[str, Any]) -> dict[tuple[str, int], Taken]:
        """The batches that were measured under these conditions, by accelerator and first picture."""
        alike = json.loads(json.dumps(conditions))
        found = (line for line in self.lines if line["conditions"] == alike)
        return {(line["accelerator"], line["start"]): Taken(**line["taken"]) for line in found}

    def add(self, conditions: Mapping[str, Any], accelerator: str, start: int, taken: Taken) -> None:
        """Append a batch, with the date and the commit of the code.

        Raises:
            OutputError: it cannot be written.
        """
        line: dict[str, Any] = {"format": FORMAT, **stamp(), "conditions": dict(conditions)}
        line |= {"accelerator": accelerator, "start": start, "taken": taken.to_dict()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from error


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
