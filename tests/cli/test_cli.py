"""The other commands, and failures of no command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from stagevar import __version__
from stagevar.cli.pictures import slug
from stagevar.errors import UnknownModelError
from stagevar.files import reserving
from stagevar.measure.conform import conform
from stagevar.pipeline import Pipeline

from .cli_parts import Run, failure, files

# --- the other commands ------------------------------------------------------


def test_demo_puts_every_scale_of_every_prompt_on_one_sheet(command: Run, model: Path) -> None:
    code, out, _ = command("demo", "-m", model)
    assert code == 0
    assert files(Path("out")) == ["demo-small.png"]
    with Image.open("out/demo-small.png") as sheet:
        assert sheet.width > 4 * 128
        assert sheet.height > 4 * 128
    assert [line.split()[:4] for line in out.splitlines()[1:5]] == [
        [str(k), f"{side}x{side}", str(side * side), str(8 * side * side)] for k, side in enumerate((1, 2, 4, 8))
    ]


def test_models_are_listed_for_people_and_programs(command: Run) -> None:
    code, out, _ = command("models")
    assert code == 0
    assert "scenes" in out
    code, out, _ = command("models", "--json")
    assert code == 0
    rows = json.loads(out)
    assert {"name", "family", "parameters", "sources", "files", "licence", "on_disk", "note"} == set(rows[0])


def test_score_prints_what_the_oracle_read(command: Run, model: Path) -> None:
    code, out, _ = command("score", "-m", model, "--captions", 6, "--guidance", 3, "--json")
    assert code == 0
    answer = json.loads(out)
    assert 0 <= answer["overall"] <= answer["relaxed"] <= 1
    assert answer["guidance"] == 3
    assert command("score", "-m", model, "--captions", 6)[0] == 0


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three sets: one holds, one does not, one is of a family without checks."""
    for name in ("good", "bad", "foreign"):
        (tmp_path / "sets" / name).mkdir(parents=True)
        (tmp_path / "sets" / name / "config.json").write_text("{}")

    def check(folder: Path) -> conform.Report:
        if folder.name == "foreign":
            raise UnknownModelError("no checks for it")
        return conform.Report(folder.name, (conform.Row("image", 1e-3 if folder.name == "bad" else 1e-6, 1e-4),))

    monkeypatch.setattr(conform, "conform", check)
    return tmp_path / "sets"


def test_conform_leaves_with_zero_only_if_all_sets_hold(command: Run, sets: Path) -> None:
    assert command("conform", sets / "good")[0] == 0
    assert command("conform", sets / "good", sets / "bad")[0] == 1
    assert "no checks for it" in failure(command("conform", sets / "foreign"), UnknownModelError.exit_code)
    assert command("conform", sets)[0] == UnknownModelError.exit_code


def test_conform_prints_one_object_per_set(command: Run, sets: Path) -> None:
    _, out, _ = command("conform", sets, "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [(answer["set"], answer["ok"]) for answer in answers] == [("bad", False), ("foreign", False), ("good", True)]
    assert answers[2]["worst"] == {"tensor": "image", "error": 1e-6, "tolerance": 1e-4}


def test_a_folder_without_sets_is_one_line(command: Run, tmp_path: Path) -> None:
    assert "config.json" in failure(command("conform", tmp_path), 4)


# --- failures of no command --------------------------------------------------


def test_the_version(command: Run) -> None:
    assert command("--version")[:2] == (0, f"stagevar {__version__}\n")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_the_command_line_says_what_to_install(
    command: Run, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == missing or name.startswith("stagevar.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert "stagevar[cli]" in failure(command("models"), 3)


def test_a_bug_is_one_line_too_unless_debugging(command: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise IndexError("list index\nout of range")

    monkeypatch.setattr(Pipeline, "events", broken)
    assert "IndexError: list index out of range" in failure(command("generate", "a star", "-m", model), 1)
    with pytest.raises(IndexError):
        command("--debug", "generate", "a star", "-m", model)
    assert os.environ["STAGEVAR_DEBUG"] == "1"


def test_names_of_files_are_plain_and_short() -> None:
    assert slug("  A red_circle, to the LEFT!  ") == "a-red-circle-to-the-left"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("???") == "picture"
    assert slug("名前 " * 100).startswith("名前-名前")
    assert len(slug("名前 " * 100).encode()) <= 80


def test_a_taken_name_is_counted_up(tmp_path: Path) -> None:
    for expected in ("a.png", "a-2.png", "a-3.png"):
        with reserving(tmp_path, "a", ".png") as (path, temporary):
            temporary.touch()
        assert path.name == expected and path.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["f" * 9999],
        ["generate", "a star", "--" + "f" * 9999],
        ["generate", "a star", "--seed", "f" * 9999],
        ["generate", "a star", "-o", "f" * 9999],
        ["doctor", "f" * 9999],
        ["conform", "f" * 9999],
        ["again", "f" * 9999],
    ],
    ids=lambda arguments: arguments[0][:9],
)
def test_errors_are_bounded_whatever_is_typed(command: Run, arguments: list[str]) -> None:
    code, out, errors = command(*arguments)
    assert code and not out and len(errors) < 1300 and errors.count("\n") == 1


def test_captions_are_at_most_those_of_a_file(command: Run, model: Path) -> None:
    Path("prompts.txt").write_text("a star\na ring\na cross\n")
    for most, count in ((2, 2), (5, 3)):
        options = ("-m", model, "--prompts", "prompts.txt", "--captions", most, "--json")
        assert json.loads(command("compare", "none", *options)[1])["captions"] == count
        found = json.loads(command("study", *options, "--rank-prompts", 1)[1])
        assert found["prompts"] == count


@pytest.mark.parametrize("short", [["-h"], ["-V"], ["generate", "-h"]])
def test_short_forms_of_help_and_version(command: Run, short: list[str]) -> None:
    code, out, _ = command(*short)
    assert code == 0 and ("Usage" in out or "stagevar" in out)


def test_a_misspelt_option_or_name_is_answered_with_the_nearest(command: Run) -> None:
    assert "--seed" in failure(command("generate", "a star", "--sede", 1), 2)
    assert "did you mean infinity-2b?" in failure(command("generate", "a star", "-m", "infinity-2"), 2)
    assert "did you mean stagevar" in failure(command("generate", "a star", "-a", "stagvar"), 2)
