"""What the tests of cli share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def failure(outcome: tuple[int, str, str], code: int) -> str:
    """The one line of an error."""
    assert outcome[0] == code, outcome
    lines = outcome[2].strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
