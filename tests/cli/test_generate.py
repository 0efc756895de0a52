"""`stagevar generate` on a small random model: files, names, exit codes, one line for every failure."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stagevar import __version__
from stagevar.errors import UnknownModelError
from stagevar.pipeline import Pipeline

from .cli_parts import Run, failure, files

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
        record = json.loads(picture.info.pop("stagevar"))
        assert picture.info == {
            "prompt": "A red circle!",
            "seed": "8",
            "model": "small",
            "Software": f"stagevar {__version__}",
        }
    assert record["origin"]["source"] == str(model) and record["accelerator"] == "none"
    assert {"guidance_scale", "temperature", "negative_prompt", "height", "width", "dtype"} <= set(record)


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
    assert "--prompts" in failure(command("generate"), 2)
    for arguments in (["frobnicate"], ["generate", "a star", "--frob"], ["generate", "a", "-n", "many"]):
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


def test_what_fails_on_the_way_out_of_an_interrupt_is_one(
    command: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Pipeline, *arguments: Any, **options: Any) -> Iterator[Any]:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("a context that was not left in order")

    monkeypatch.setattr(Pipeline, "events", interrupted)
    assert "interrupted" in failure(command("generate", "a star", "-m", model), 130)


@pytest.mark.slow
def test_control_c_keeps_whole_pictures_only(model: Path, tmp_path: Path) -> None:
    command = ["generate", "a star", "-m", str(model), "-n", "1000", "--batch-size", "1", "-o", str(tmp_path / "o")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from stagevar.cli import main; main()", *command],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells start background jobs without it
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
