"""``stagevar serve``: what it refuses before it listens, and how it starts and stops."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from stagevar.cli import run
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model

PICTURES = "/v1/images/generations"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "no-such-model"], 2, "no-such-model"),
        (["--accelerator", "warp"], 2, "there is no accelerator"),
        (["--accelerator", "drop_last(99)"], 2, "scales"),
        (["--api-keys", "no-such-file"], 4, "no-such-file"),
        (["--port", "70000"], 2, "--port"),
        (["--device", "abacus"], 2, "abacus"),
        (["--replicas", "2"], 2, "give --ray too"),
        (["--ray", "--ui"], 2, "not both"),
        (["--lanes", "2", "--max-memory", "4GB"], 2, "not both"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", *arguments]) == code
    assert words in capsys.readouterr().err


def test_keys_and_a_page_without_keys_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEVAR_API_KEYS", "one, two")
    assert run(["serve", "--ui"]) == 2 and "not both" in capsys.readouterr().err
    (file := tmp_path / "keys").write_text("one\n\ntwo three\n")
    assert run(["serve", "--api-keys", str(file)]) == 2 and "API key 4" in capsys.readouterr().err
    file.write_text("\n")
    assert run(["serve", "--api-keys", str(file)]) == 2 and "no API key" in capsys.readouterr().err


def test_a_port_that_is_taken_is_an_error_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(["serve", "--port", str(taken.getsockname()[1])]) == 6
    assert re.fullmatch(
        r"error: cannot listen on 127.0.0.1, port \d+: .*; choose another .*\n", capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that draws in milliseconds."""
    save_model(tiny("scenes"), folder := tmp_path_factory.mktemp("models") / "small")
    return folder


def test_weights_that_cannot_be_loaded_end_it_with_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, broken := tmp_path / "broken")
    weights = next(broken.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert run(["serve", "--port", "0", "--model", str(broken)]) == 4
    first, error = capsys.readouterr().err.splitlines()
    assert first.startswith("serving") and error.startswith("error: ") and "model.safetensors" in error


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A server in a process of its own, its address, and the lines of its standard error so far."""
    command = [sys.executable, "-m", "stagevar", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
        reader.start()
        try:
            found = re.fullmatch(r"serving .* at (http://127.0.0.1:\d+)/v1\n", lines[0])
            assert found is not None, lines
            while httpx2.get(found[1] + "/ready").status_code != 200:
                time.sleep(0.05)
            yield process, found[1], lines
        finally:
            process.kill()
            reader.join()


def test_a_signal_lets_it_finish_what_it_has_accepted(folder: Path) -> None:
    body = {"prompt": "a red circle", "n": 3, "seed": 1, "stream": True, "preview_scales": [0]}
    with started("--model", str(folder)) as (process, url, lines):
        assert [model["id"] for model in httpx2.get(url + "/v1/models").json()["data"]] == ["small"]
        with httpx2.stream("POST", url + PICTURES, json=body, timeout=60) as answer:
            text = answer.iter_text()
            first = next(text)
            process.send_signal(signal.SIGTERM)
            events = re.findall("event: (.*)", first + "".join(text))
        assert process.wait(60) == 0
        assert sorted(events) == ["image_generation.completed"] * 3 + ["image_generation.partial_image"] * 3
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(url + "/health")
    assert any('"status": 200' in line and PICTURES in line for line in lines) and "red circle" not in "".join(lines)


@pytest.mark.slow
def test_the_page_lies_behind_the_servers_own_paths(folder: Path) -> None:
    with started("--model", str(folder), "--ui") as (_, url, _):
        assert "gradio" in httpx2.get(url + "/", timeout=60).text
        assert [model["id"] for model in httpx2.get(url + "/v1/models").json()["data"]] == ["small"]
        assert httpx2.post(url + PICTURES, json={"prompt": "a red circle"}, timeout=60).status_code == 200


@pytest.mark.slow
def test_after_a_kill_it_starts_again_and_draws_the_same(folder: Path) -> None:
    body, drawn = {"prompt": "a red circle", "seed": 1}, []
    for _ in range(2):
        with started("--model", str(folder)) as (process, url, _):
            drawn.append(httpx2.post(url + PICTURES, json=body, timeout=60).json()["data"])
            threading.Thread(target=_ignored, args=(url + PICTURES, {**body, "n": 9})).start()
            time.sleep(0.2)
            process.send_signal(signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
    assert drawn[0] == drawn[1]


def _ignored(url: str, body: dict[str, object]) -> None:
    with suppress(httpx2.TransportError):  # the kill may come behind the answer
        httpx2.post(url, json=body, timeout=60)
