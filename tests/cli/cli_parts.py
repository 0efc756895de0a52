"""What the tests of cli share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

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


def picture(source: Path | str | bytes) -> Image.Image:
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
        opened.load()
        return opened
