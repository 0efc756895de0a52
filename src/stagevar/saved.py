"""Reading the files that the program writes for itself: fits, found plans and stage profiles; and telling its results
from files of others, which are never replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

from stagevar.errors import MissingFileError, OptionError, OutputError, first_line, quoted
from stagevar.fields import read_fields
from stagevar.untrusted import read_json

LARGEST = 2**20
"""Most bytes of a file."""

FIRST = re.compile(rb'\{\s*"format": "([a-z ]+) [0-9]+"')
"""How the JSON files of the program begin: with what they are, and its version."""

T = TypeVar("T")


def read_saved(path: Path, what: str, version: str, command: str, kind: type[T]) -> T:
    """What a file holds.

    Args:
        what: what it is called, such as ``fit``.
        version: what its ``format`` has to be.
        command: what writes such a file.
        kind: the dataclass that was written, with the ``format`` ahead.

    Raises:
        MissingFileError: there is no such file, or it cannot be read.
        OptionError: it is something else, of another version, or damaged.
    """
    try:
        data = read_json(path, LARGEST)
    except OSError as error:
        raise MissingFileError(f"cannot read the {what} {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise OptionError(
            f"{path} is no {what} of this version ({first_line(error)}); write one with `{command}`"
        ) from None
    found = data.pop("format", None) if isinstance(data, dict) else None
    if found != version:
        raise OptionError(
            f"{path} is no {what} of this version ({version!r}, not {quoted(found)}); write one with `{command}`"
        )
    try:
        return cast(T, read_fields(kind, data))
    except (TypeError, ValueError, OverflowError, OptionError) as error:
        raise OptionError(f"{path} is a damaged {what}: {first_line(error)}; write one with `{command}`") from None


def read_once(load: Callable[[Path], T], path: Path) -> T:
    """What ``load`` makes of a file, read once until it is written anew.

    Raises:
        as ``load``.
    """
    path = path.expanduser()
    return _read(load, path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=32)
def _read(load: Callable[[Path], T], path: Path, changed: int) -> T:
    return load(path)


def kind_of(path: Path) -> str:
    """What a JSON file of the program is, such as ``stagevar fit``, of any version; "" for anything else."""
    try:
        with path.open("rb") as file:
            found = FIRST.match(file.read(200))
    except OSError:
        return ""
    return found[1].decode() if found else ""


def marked(path: Path, mark: str) -> bool:
    """Whether a file is a picture with a text field of that name, as only one command writes it."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return mark in opened.info
    except Exception:  # of a damaged file, Pillow raises whatever its readers do
        return False


def require_results(paths: Sequence[Path], kind: str) -> None:
    """Raise unless every file in the place of a result was written by an earlier run, as the first of them says.

    Args:
        paths: of the results of a run, first its JSON file, which is written first.
        kind: what ``kind_of`` says of that one.

    Raises:
        OutputError: a file, folder or link that no run of this kind has written is in the place of one.
    """
    own = kind_of(paths[0]) == kind
    for path in paths:
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file() or not own):
            raise OutputError(f"{path} was not written by a run of this command and is kept; choose another folder")
