"""Journals: JSON lines that are only ever appended to, so that a killed run loses the line at hand alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stagevar.errors import OptionError
from stagevar.files import unwritable


def read_lines(path: Path, starts: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a journal; none of a file that is not there. Nothing is written.

    Args:
        starts: what lines of the journal begin with; a last line without an end has to be the beginning of one.

    Raises:
        OptionError: a line that is none of the journal; names it.
        OutputError: the file cannot be read.
    """
    try:
        *whole, last = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unwritable(path, error) from error
    found = list[dict[str, Any]]()
    for number, line in enumerate(whole, 1):
        try:
            each = json.loads(line) if _begins(line, starts) else None
        except (ValueError, RecursionError):
            each = None
        if not isinstance(each, dict):
            raise strange(path, number)
        found.append(each)
    if not _begins(last, starts):
        raise strange(path, len(whole) + 1)
    return found


def _begins(line: bytes, starts: Sequence[str]) -> bool:
    """Whether a line, or as much of it as there is, begins as one of the journal."""
    return any(line[: len(start)] == start[: len(line)].encode() for start in starts)


def strange(path: Path, number: int) -> OptionError:
    """The error of a line that is none of the journal."""
    return OptionError(f"{path}, line {number}: no line of this program and version; choose another folder")


def mend(path: Path) -> None:
    """Cut off a last line that a killed run has left without an end, of a journal that has been read.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        if path.exists() and (whole := path.read_bytes().rfind(b"\n") + 1) < path.stat().st_size:
            os.truncate(path, whole)
    except OSError as error:
        raise unwritable(path, error) from error


def append(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Append objects; the folder is made.

    Raises:
        OutputError: they cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(line)}\n" for line in lines))
    except OSError as error:
        raise unwritable(path, error) from error
