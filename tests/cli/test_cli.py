"""The command line on a small random model: files, names, exit codes, and one line for every failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stagevar import __version__
from stagevar.cli.pictures import free_name, slug
from stagevar.errors import UnknownModelError
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.families.tiny import randomize
from stagevar.loading.folder import save_model
from stagevar.measure.conform import conform
from stagevar.pipeline import Pipeline

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model of the scenes family that draws in milliseconds."""
    config = ScenesConfig(width=32, depth=1, heads=2, text_depth=1, grids=(1, 2, 4, 8), codes=(8, 8, 8, 8))
    network = Scenes(config, name="small")
    randomize(network, 0)
    network.tokenizer.codebook.normal_(generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("small")
    save_model(network, folder)
    return folder


def failure(outcome: tuple[int, str, str], code: int) -> str:
    """The one line of an error."""
    assert outcome[0] == code, outcome
    lines = outcome[2].strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- generate ----------------------------------------------------------------


def test_pictures_get_telling_names_and_tell_what_made_them(command: Run, model: Path) -> None:
    code, out, _ = command(
        "generate", "A red circle!", "three green stars", "-m", model, "-n", 2, "--seed", 7, "-o", "o"
    )
    assert code == 0
    names = ["a-red-circle-7.png", "a-red-circle-8.png", "three-green-stars-7.png", "three-green-stars-8.png"]
    assert files(Path("o")) == names
    assert all(name in out for name in names)
    with Image.open("o/a-red-circle-8.png") as picture:
        assert picture.size == (16, 16)
        assert picture.info == {
            "prompt": "A red circle!",
            "seed": "8",
            "model": "small",
            "Software": f"stagevar {__version__}",
        }


def test_the_same_command_again_keeps_the_first_pictures(command: Run, model: Path) -> None:
    for _ in range(2):
        assert command("generate", "a star", "-m", model, "--seed", 1, "-q")[:2] == (0, "")
    assert files(Path("out")) == ["a-star-1-2.png", "a-star-1.png"]
    first, second = (Image.open(f"out/{name}") for name in files(Path("out")))
    assert first.tobytes() == second.tobytes()


def test_json_goes_to_stdout_alone(command: Run, model: Path) -> None:
    code, out, _ = command(
        "generate", "a star", "-m", model, "-n", 3, "--batch-size", 2, "--json", "--guidance", "1,2,3,4"
    )
    assert code == 0
    answer = json.loads(out)
    assert all(Path(picture["file"]).exists() for picture in answer["pictures"])
    assert len({picture["seed"] for picture in answer["pictures"]}) == 3
    assert [len(trace["pictures"]) for trace in answer["traces"]] == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["generate", ""], 2, "empty"),
        (["generate", "a purple circle"], 2, "purple"),
        (["generate", "a star", "-n", "0"], 2, "1 or more"),
        (["generate", "a star", "-n", "100000"], 2, "at most"),
        (["generate", "a star", "--size", "big"], 2, "--size"),
        (["generate", "a star", "--size", "99x16", "--strict"], 2, "16x16"),
        (["generate", "a star", "--size", "9" * 5000 + "x1"], 2, "--size"),
        (["generate", "a star \udcff"], 2, "UTF-8"),
        (["generate", "a star", "--seed", "18446744073709551615", "-n", "2"], 2, "seed"),
        (["generate", "a star", "--temperature", "1e-45"], 2, "temperature"),
        (["generate", "a star", "--guidance", "1,2,3,nan"], 2, "guidance"),
        (["generate", "a star", "--weights", "."], 2, "weights"),
        (["generate", "a star", "--device", "meta"], 2, "meta"),
        (["generate", "a star", "--device", "mkldnn"], 2, "mkldnn"),
        (["generate", "a star", "--device", "hpu"], 2, "hpu"),
        (["generate", "a star", "-o", "o" * 300], 6, "too long"),
        (["generate", "a star", "--guidance", "much"], 2, "--guidance"),
        (["generate", "a star", "--guidance", "1,2"], 2, "4 scales"),
        (["generate", "a star", "--top-p", "2"], 2, "top_p"),
        (["generate", "a star", "--seed", "-1"], 2, "seed"),
        (["generate", "a star", "--device", "abacus"], 2, "abacus"),
        (["generate", "a star", "--dtype", "int3"], 2, "dtype"),
        (["score", "--captions", "999999"], 2, "captions"),
    ],
)
def test_bad_input_is_one_line(command: Run, model: Path, arguments: list[str], code: int, part: str) -> None:
    assert part in failure(command(*arguments, "-m", model), code)
    assert not Path("out").exists()


def test_an_unknown_model_is_answered_with_the_known_ones(command: Run) -> None:
    assert "scenes" in failure(command("generate", "a star", "-m", "dall-e"), UnknownModelError.exit_code)


def test_usage_errors_leave_with_two(command: Run, model: Path) -> None:
    for arguments in (["generate"], ["frobnicate"], ["generate", "a star", "--frob"], ["generate", "a", "-n", "many"]):
        assert "--help" in failure(command(*arguments), 2)


def test_no_command_at_all_shows_what_there_is(command: Run) -> None:
    code, out, errors = command()
    assert (code, errors) == (0, "")
    assert all(name in out for name in ("generate", "demo", "models", "conform", "score"))


def test_a_full_disk_keeps_what_was_written_and_leaves_no_half(
    command: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = Image.Image.save, []

    def fill_up(image: Image.Image, path: Path, **options: Any) -> None:
        if len(saved) == 1:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", fill_up)
    outcome = command("generate", "a star", "-m", model, "-n", 3, "--seed", 0, "-o", "o")
    assert "No space left on device" in failure(outcome, 6)
    assert files(Path("o")) == ["a-star-0.png"]


def test_an_output_folder_that_cannot_be_made_is_one_line(command: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file" in failure(command("generate", "a star", "-m", model, "-o", "file/o"), 6)


def test_an_interrupt_is_one_line(command: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Pipeline.events

    def interrupted(self: Pipeline, *arguments: Any, **options: Any) -> Iterator[Any]:
        yield next(iter(events(self, *arguments, **options)))
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "events", interrupted)
    assert "interrupted" in failure(command("generate", "a star", "-m", model), 130)
    assert not Path("out").exists()


@pytest.mark.slow
def test_control_c_keeps_whole_pictures_only(model: Path, tmp_path: Path) -> None:
    command = ["generate", "a star", "-m", str(model), "-n", "1000", "--batch-size", "1", "-o", str(tmp_path / "o")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from stagevar.cli import main; main()", *command], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("o/*.png")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().startswith("error: ")
    for path in (tmp_path / "o").iterdir():
        with Image.open(path) as picture:
            picture.load()


def test_an_output_folder_that_may_not_be_read_is_one_line(
    command: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Path.exists

    def refuse(self: Path, *_: object, **__: object) -> bool:
        if self.is_relative_to("out"):
            raise PermissionError(13, "Permission denied", str(self))
        return exists(self)

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "exists", refuse)
    assert "Permission denied" in failure(command("generate", "a star", "-m", model), 6)
    monkeypatch.setattr(Path, "exists", lambda self: refuse(Path("out")))
    assert "out: Permission denied" in failure(command("generate", "a star", "-m", model), 4)


def test_a_full_standard_output_is_one_line(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("typer.echo", full)
    assert "No space left on device" in failure(command("models", "--json"), 6)


def test_out_of_memory_says_what_to_ask_for(command: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 99 GiB")

    monkeypatch.setattr(Pipeline, "events", exhausted)
    assert "--batch-size" in failure(command("generate", "a star", "-m", model), 1)


def test_names_in_brackets_are_shown_as_they_are(command: Run, model: Path) -> None:
    code, out, _ = command("generate", "a star", "-m", model, "--seed", 1, "-o", "[red]x[/foo]:smile:" + "y" * 100)
    assert code == 0
    assert "[red]x[/foo]:smile:" + "y" * 100 + "/a-star-1.png" in out


# --- the other commands ------------------------------------------------------


def test_demo_puts_every_scale_of_every_prompt_on_one_sheet(command: Run, model: Path) -> None:
    code, out, _ = command("demo", "-m", model)
    assert code == 0
    assert files(Path("out")) == ["demo-small.png"]
    with Image.open("out/demo-small.png") as sheet:
        assert sheet.width > 4 * 128
        assert sheet.height > 4 * 128
    assert [line.split()[:4] for line in out.splitlines()[1:5]] == [
        [str(k + 1), f"{side}x{side}", str(side * side), str(8 * side * side)] for k, side in enumerate((1, 2, 4, 8))
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
        path = free_name(tmp_path, "a")
        assert path.name == expected
        path.touch()
