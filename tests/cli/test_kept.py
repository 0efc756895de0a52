"""Files that a command did not write are kept, and that is said before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from .cli_parts import Run, failure, files, picture


@pytest.fixture
def loading_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagevar.loaded.load", lambda *_, **__: pytest.fail("loaded"))


@pytest.mark.usefixtures("loading_fails")
@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a star", "-o", "notes.txt"],
        ["generate", "a star", "-o", "photo.png"],
        ["generate", "a star", "-o", "link.png"],
        ["generate", "a star", "--trace", "notes.txt"],
        ["edit", "photo.png", "a star", "-o", "photo.png"],
        ["calibrate", "-o", "notes.txt"],
        ["calibrate", "-a", "skipvar", "-o", "notes.txt"],
    ],
    ids=" ".join,
)
def test_a_file_of_others_is_kept(command: Run, arguments: list[str]) -> None:
    Path("notes.txt").write_text("mine")
    Image.new("RGB", (8, 8)).save("photo.png")
    Path("link.png").symlink_to("photo.png")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert "is kept; choose another name" in failure(command(*arguments), 6)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.usefixtures("loading_fails")
@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["demo", "-o", "."], "demo-scenes.png"),
        (["study", "-o", "."], "study.md"),
        (["study", "-o", "."], "profile.json"),
        (["study", "-o", "."], "cost.png"),
        (["study", "-o", "."], "pictures.png"),
    ],
)
def test_a_file_of_others_under_a_fixed_name_is_kept(command: Run, arguments: list[str], place: str) -> None:
    Path(place).write_text("mine")
    assert f"{place} was not written by" in failure(command(*arguments), 6)
    assert files(Path()) == [place] and Path(place).read_text() == "mine"


def test_a_study_and_a_demo_replace_their_own(command: Run, model: Path) -> None:
    for _ in range(2):
        assert command("demo", "-m", model, "-q")[0] == 0
        few = ("--captions", 2, "--rank-prompts", 1)
        assert command("study", "-m", model, *few, "-q")[0] == 0
    assert files(Path("out")) == ["demo-small.png"]


def test_pictures_traces_and_profiles_of_ours_are_replaced(command: Run, model: Path) -> None:
    for seed in (1, 2):
        options = ("-m", model, "--seed", seed, "-o", "star.png", "--trace", "trace.jsonl", "-q")
        assert command("generate", "a star", *options)[0] == 0
        assert picture("star.png").info["stagevar"].count(f'"seed": {seed}') == 1
        assert f'"seed": {seed}' in Path("trace.jsonl").read_text()
        few = ("--captions", 2, "--rank-prompts", 1, "--dial-prompts", 0)
        assert command("calibrate", "-m", model, *few, "-q")[0] == 0


def test_why_keeps_what_it_has_not_written(command: Run, model: Path) -> None:
    assert command("generate", "a star", "-m", model, "-o", "star.png", "-q")[0] == 0
    Path("star-why.png").write_text("mine")
    for name in ("star-why.png", "star.png"):
        before = Path(name).read_bytes()
        assert f"{name} was not written" in failure(command("why", "star.png", "-o", name), 6)
        assert Path(name).read_bytes() == before
    assert command("why", "star.png")[1].endswith("star-why-2.png\n") and Path("star-why.png").read_text() == "mine"
    for _ in range(2):
        assert command("why", "star.png", "-o", "sheet.png", "-q")[0] == 0
    assert "does not say how it was made" in failure(command("again", "sheet.png"), 4)


def test_why_answers_for_a_picture_without_a_prompt(command: Run, model: Path) -> None:
    assert command("generate", "--unconditional", "-m", model, "-o", "any.png", "-q")[0] == 0
    code, out, _ = command("why", "any.png")
    assert code == 0 and "the picture of the file" in out and "NOT" not in out
