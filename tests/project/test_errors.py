"""The table at the top of errors.py is true, and every error can be shown to a user."""

from __future__ import annotations

import inspect
import re

import pytest

from stagevar import errors
from stagevar.errors import MissingExtraError, StagevarError

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, StagevarError) and value.__module__ == errors.__name__
]


def drawn() -> dict[str, tuple[str | None, int | None, int | None]]:
    """Parent, exit code and HTTP status of every class in the table."""
    table: dict[str, tuple[str | None, int | None, int | None]] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if row := re.fullmatch(r"([ │├└─]*)(\w+) +(\d+|exit) +(\d+|HTTP)\b.*", line):
            depth, name = len(row[1]), row[2]
            parent = above.get(max((d for d in above if d < depth), default=-1))
            above = {d: n for d, n in above.items() if d < depth} | {depth: name}
            codes = [int(cell) if cell.isdecimal() else None for cell in (row[3], row[4])]
            table[name] = (parent, codes[0], codes[1])
    return table


def test_the_table_lists_every_class_below_its_base() -> None:
    table = drawn()
    assert set(table) == {kind.__name__ for kind in CLASSES}
    for kind in CLASSES:
        parent = table[kind.__name__][0]
        assert kind.__base__.__name__ == (parent or "Exception")


@pytest.mark.parametrize("kind", CLASSES)
def test_the_table_gives_the_codes_of_the_class(kind: type[StagevarError]) -> None:
    _, exit_code, status = drawn()[kind.__name__]
    if kind is not StagevarError:
        assert (exit_code, status) == (kind.exit_code, kind.http_status)
    assert 1 <= kind.exit_code <= 255
    assert 400 <= kind.http_status < 600


def test_a_missing_extra_says_what_to_install() -> None:
    assert str(MissingExtraError("rich", "cli")) == "rich is not installed; run: pip install 'stagevar[cli]'"
