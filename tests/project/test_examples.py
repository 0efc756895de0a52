"""The examples that no family's own test runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "arguments", "sizes"),
    [
        ("infinity", ["a cat", "--tiny", "--size", "54x18"], {"infinity.png": (108, 18)}),
        ("star", ["a cat", "--tiny"], {"star.png": (32, 16)}),
        (
            "scenes",
            ["a star"],
            {"scenes-scales.png": (2560, 256), "scenes-dial.png": (1024, 256)},
        ),
    ],
)
def test_an_example_runs_offline(
    name: str,
    arguments: list[str],
    sizes: dict[str, tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    for file, size in sizes.items():
        with Image.open(file) as picture:
            assert picture.size == size


def test_every_family_has_an_example() -> None:
    from stagevar.families.catalogue import FAMILIES

    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*FAMILIES, "edit"}


@pytest.mark.parametrize(
    ("family", "size"),
    [*((family, (72, 16)) for family in ("var", "star", "switti", "hart")), ("infinity", (140, 32))],
)
def test_the_example_of_edits_runs_for_every_family(
    family: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").save("photo.png")
    monkeypatch.setattr("sys.argv", ["edit", "photo.png", "7" if family == "var" else "a star", "--tiny", family])
    runpy.run_path(str(EXAMPLES / "edit.py"))
    with Image.open("edit.png") as picture:
        assert picture.size == size
