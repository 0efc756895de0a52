"""Files of benchmarks, as plain data; what is not of the expected form is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from stagevar.errors import MissingFileError, OptionError


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        MissingFileError: it cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise MissingFileError(f"cannot read {path}: it is no text in UTF-8") from None


def read_json(path: Path) -> Any:
    """The value that a JSON file holds.

    Raises:
        MissingFileError: it cannot be read.
        OptionError: it is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is no JSON: {error}") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object a line.

    Raises:
        MissingFileError: it cannot be read.
        OptionError: a line holds something else.
    """
    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise OptionError(f"{path}, line {number} is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise OptionError(f"{path}, line {number} is no JSON object")
        found.append(value)
    return found


def text_of(record: Any, name: str, where: object) -> str:
    """A text field of an object.

    Raises:
        OptionError: there is no object, or no text of that name in it.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise OptionError(f"{where} has no text {name}")
    return value


def number_of(value: Any, where: object) -> float:
    """A number of results.

    Raises:
        OptionError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"{where} is no number")
    return float(value)


def free(path: Path, start: str) -> bool:
    """Whether a text may be written to a path: nothing is there, or a file with the same start, from a run before."""
    if not os.path.lexists(path):
        return True
    try:
        with path.open("rb") as opened:
            return opened.read(len(start.encode())) == start.encode()
    except OSError:
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names.

    Raises:
        MissingFileError: it cannot be read.
    """
    found, path = hashlib.sha256(), path.expanduser()
    try:
        files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
        for each in files:
            found.update(each.name.encode() if path.is_dir() else b"")
            found.update(each.read_bytes())
    except OSError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror or error}") from None
    return found.hexdigest()
