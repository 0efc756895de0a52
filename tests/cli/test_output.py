"""Where pictures go: files, links, pipes, standard output; what is kept when something fails."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from stagevar.errors import NumericError
from stagevar.pipeline import Pipeline

from .cli_parts import Run, failure, files, picture


def spawn(*arguments: object, cwd: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "stagevar", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# --- places ----------------------------------------------------------------------------------------------------------


def test_a_named_file_is_written(command: Run, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert command("generate", "a star", "-m", model, "-o", "star.png", "-q")[0] == 0
    assert picture("star.png").size == (16, 16)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert command("generate", "a star", "-m", model, "-o", "~/star.png", "-q")[0] == 0
    assert (tmp_path / "home" / "star.png").is_file()
    assert "one file" in failure(command("generate", "a star", "-n", 2, "-m", model, "-o", "star.png"), 2)


def test_a_link_stays_a_link(command: Run, model: Path) -> None:
    Path("far").mkdir()
    Path("far/real.png").touch()
    Path("link.png").symlink_to("far/real.png")
    assert command("generate", "a star", "-m", model, "-o", "link.png", "-q")[0] == 0
    assert Path("link.png").is_symlink() and picture("far/real.png").size == (16, 16)
    assert files(Path("far")) == ["real.png"]


@pytest.mark.parametrize("name", ["link.png", "link"])
def test_a_link_to_a_file_that_is_not_there_yet_makes_it(command: Run, model: Path, name: str) -> None:
    Path(name).symlink_to("new/real.png")
    assert command("generate", "a star", "-m", model, "-o", name, "-q")[0] == 0
    assert Path(name).is_symlink() and picture("new/real.png").size == (16, 16)


def test_into_a_pipe_the_picture_is_written(command: Run, model: Path) -> None:
    os.mkfifo("pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_bytes()))
    reader.start()
    assert command("generate", "a star", "-m", model, "-o", "pipe", "-q")[0] == 0
    reader.join()
    assert picture(read[0]).size == (16, 16) and Path("pipe").is_fifo()


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_standard_output_carries_the_picture_alone(model: Path, tmp_path: Path, name: str) -> None:
    out, errors = spawn("generate", "a star", "-m", model, "-o", name, cwd=tmp_path).communicate()
    assert picture(out).size == (16, 16) and errors == b""


def test_a_file_that_standard_output_goes_to_is_not_replaced(model: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        options = ("generate", "a star", "-m", model, "--trace", "/dev/stdout")
        code = subprocess.run(
            [sys.executable, "-m", "stagevar", *map(str, options)], cwd=tmp_path, stdout=log
        ).returncode
    lines = (tmp_path / "log").read_text().splitlines()
    assert code == 0 and json.loads(lines[0])["kind"] == "call" and "1 picture of small" in lines[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a star", "--trace", "file/trace.jsonl"],
        ["generate", "a star", "-o", "/proc/pictures"],
        ["demo", "-o", "file"],
        ["compare", "none", "-o", "file/o"],
        ["study", "-o", "/proc/study"],
        ["calibrate", "-o", "file/profile.json"],
        ["calibrate", "-o", "."],
    ],
    ids=" ".join,
)
def test_every_command_checks_its_place_before_anything_is_loaded(
    command: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    Path("file").touch()
    monkeypatch.setattr("stagevar.loaded.load", lambda *_, **__: pytest.fail("loaded"))
    assert "cannot write" in failure(command(*arguments), 6)
    assert files(Path()) == ["file"]


@pytest.mark.parametrize("arguments", [["compare", "none"], ["study"], ["calibrate"]], ids=" ".join)
def test_a_bad_line_of_a_file_of_prompts_is_said_before_the_first_is_drawn(
    command: Run, model: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    Path("prompts.txt").write_text("a star\na purple dragon\n")
    monkeypatch.setattr("stagevar.engine.loop.run.run", lambda *_, **__: pytest.fail("drawn"))
    assert "dragon" in failure(command(*arguments, "-m", model, "--batch-size", 1, "--prompts", "prompts.txt"), 2)


def test_a_place_that_cannot_be_written_to_is_said_before_anything_is_loaded(
    command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setattr("stagevar.loaded.load", lambda *_, **__: pytest.fail("loaded"))
    assert "cannot write" in failure(command("generate", "a star", "-o", "file/out"), 6)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["a star", "-a", "stagevar_released(alpha=0.5)"], 2),
        (["a star", "-a", "drop_last(99)"], 2),
        (["a star", "--size", "20x20", "--strict"], 2),
        (["a star", "--guidance", "1,2,3"], 2),
    ],
)
def test_what_can_be_checked_is_checked_before_anything_is_loaded(
    command: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    monkeypatch.setattr("stagevar.loaded.load", lambda *_, **__: pytest.fail("loaded"))
    failure(command("generate", *arguments), code)


def test_a_bad_second_prompt_is_said_before_the_first_is_drawn(command: Run, model: Path) -> None:
    outcome = command("generate", "a star", "a purple dragon", "-m", model, "--batch-size", 1)
    assert "dragon" in failure(outcome, 2) and not Path("out").exists()


@pytest.mark.slow
def test_parallel_writers_lose_nothing(model: Path, tmp_path: Path) -> None:
    writers = [
        spawn("generate", "a star", "-m", model, "--seed", 1, "-q", cwd=tmp_path, OMP_NUM_THREADS="1") for _ in range(4)
    ]
    assert [(writer.communicate(), writer.returncode) for writer in writers] == [((b"", b""), 0)] * 4
    assert files(tmp_path / "out") == ["a-star-1-2.png", "a-star-1-3.png", "a-star-1-4.png", "a-star-1.png"]
    assert all(picture(path).size == (16, 16) for path in (tmp_path / "out").iterdir())


# --- failures --------------------------------------------------------------------------------------------------------


def test_what_was_finished_is_reported_after_a_failure(
    command: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, calls = Pipeline.events, []

    def failing(self, requests, **options):  # type: ignore[no-untyped-def]
        calls.append(requests)
        if len(calls) == 3:
            raise NumericError("NaN or infinity in the logits of scale 2")
        return events(self, requests, **options)

    monkeypatch.setattr(Pipeline, "events", failing)
    arguments = ("generate", "a star", "-n", 3, "-m", model, "--batch-size", 1, "--seed", 4)
    code, out, line = command(*arguments)
    assert code == 5 and "NaN" in line
    assert "2 pictures finished" in out and "a-star-4.png" in out and "a-star-5.png" in out
    calls.clear()
    code, out, _ = command(*arguments, "--json", "-o", "again")
    answer = json.loads(out)
    assert code == 5 and len(answer["pictures"]) == 2 and "NaN" in answer["error"]


def test_a_termination_leaves_no_temporary_file(model: Path, tmp_path: Path) -> None:
    process = spawn("generate", "a star", "-m", model, "-n", 1000, "--batch-size", 1, cwd=tmp_path)
    while not any(path.stat().st_size for path in (tmp_path / "out").glob("[!.]*.png")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and errors.decode().strip() == "error: terminated"
    kept = files(tmp_path / "out")
    assert all(name.endswith(".png") and not name.startswith(".") for name in kept)
    assert all(picture(tmp_path / "out" / name).size == (16, 16) for name in kept)
    assert f"{len(kept)} picture" in out.decode()


def test_other_encodings_of_the_terminal_lose_no_result(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a star\n", encoding="utf-8")
    options = ("-m", model, "--trace", "träce.jsonl", "-o", "öut", "--prompts", "prompts.txt")
    process = spawn("generate", *options, cwd=tmp_path, PYTHONUTF8="0", LC_ALL="C", PYTHONCOERCECLOCALE="0")
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert len(files(tmp_path / "öut")) == 1 and (tmp_path / "träce.jsonl").exists() and b"1 picture" in out


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_come_from_a_file_or_standard_input(command: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("prompts.txt").write_bytes("\ufeffa star\n\na red ring\n".encode())
    code, out, _ = command("generate", "a cross", "-m", model, "--prompts", "prompts.txt", "--seed", 1, "--json")
    assert code == 0 and [row["prompt"] for row in json.loads(out)["pictures"]] == ["a cross", "a star", "a red ring"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"two rings\n")))
    code, out, _ = command("generate", "-m", model, "--prompts", "-", "--json")
    assert code == 0 and [row["prompt"] for row in json.loads(out)["pictures"]] == ["two rings"]


# --- what is printed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models"], ["mit-han-lab/hart-0.7b-1024px", "FoundationVision/Infinity", "star-1024-sampler", "Apache-2.0"]),
        (["accelerators"], ["stagevar_released(alpha=0.96,", "prompt's", "fidelity"]),
        (["explain", "-a", "stagevar", "-m", "infinity-2b"], ["guidance", "structure", "(zero_code)", "8064", "18.8%"]),
        (["explain", "-a", "lazyvar", "-m", "infinity-2b"], ["full with 9", "dealt", "20%", "1%"]),
        (["doctor", "switti"], ["laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"]),
        (
            ["compare", "drop_last(1)+guidance_off(2)", "--captions", "2"],
            ["speed-up (quartiles)", "± error"],
        ),
    ],
    ids=lambda value: value[0],
)
def test_tables_fit_a_terminal_of_80_columns_without_breaking_words(
    command: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("stagevar.cli.show.Console", partial(Console, force_terminal=True, no_color=True, width=80))
    out = re.sub(r"\x1b\[[0-9;]*m", "", command(*arguments)[1])
    assert all(word in out for word in words), out
    assert "…" not in out and max(len(line) for line in out.splitlines() if "  " in line) <= 80


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["accelerators"],
        ["explain", "-a", "stagevar_released", "-m", "infinity-2b"],
        ["doctor", "scenes"],
        ["compare", "drop_last(1)", "--captions", "2", "-q", "--json"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_off_a_terminal_there_are_no_stray_lines(command: Run, arguments: list[str]) -> None:
    _, out, errors = command(*arguments)
    assert errors == "" and out and not out.startswith("\n") and "\n\n\n" not in out
    assert all(line == line.rstrip() for line in out.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["accelerators"],
        ["explain", "-a", "stagevar"],
        ["explain", "-a", "stagevar_released", "-m", "infinity-2b"],
        ["explain", "-a", "lazyvar", "-m", "infinity-2b"],
    ],
    ids=" ".join,
)
def test_on_a_terminal_of_80_columns_words_and_figures_stay_whole(
    command: Run, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole, _ = command(*arguments)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, out, _ = command(*arguments)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert "\x1b" in out and max(map(len, shown.splitlines())) <= 80
    assert set(shown.split()) == set(whole.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a star"],
        ["doctor"],
        ["explain", "-a", "drop_last(1)"],
        ["compare", "none", "--captions", "1"],
        ["study", "--captions", "1", "--rank-prompts", "1"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_size_that_is_not_drawn_is_told_by_every_command(command: Run, model: Path, arguments: list[str]) -> None:
    arguments = (
        [arguments[0], str(model), *arguments[1:]] if arguments[0] == "doctor" else [*arguments, "-m", str(model)]
    )
    told = "drawn at 16x16, the nearest size to 20x10; --strict refuses"
    code, out, errors = command(*arguments, "--size", "20x10")
    assert code == 0 and told in out and errors == ""
    code, out, errors = command(*arguments, "--size", "20x10", "--json")
    assert code == 0 and json.loads(out) and errors.strip() == told
    assert "no 20x10 pictures (width x height)" in failure(command(*arguments, "--size", "20x10", "--strict"), 2)
