"""The container's image: what its entry script starts, and that its description names what there is."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from stagevar.cli import run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("environment", "arguments", "wanted"),
    [
        ({}, [], ["--model", "scenes"]),
        ({"STAGEVAR_MODELS": "scenes infinity-2b"}, [], ["--model", "infinity-2b", "--model", "scenes"]),
        (
            {},
            ["--accelerator", "drop_last(1)", "--queue", "8"],
            ["--model", "scenes", "--accelerator", "drop_last(1)", "--queue", "8"],
        ),
    ],
)
def test_the_entry_script_starts_the_server(
    tmp_path: Path, environment: dict[str, str], arguments: list[str], wanted: list[str]
) -> None:
    (stand_in := tmp_path / "stagevar").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    stand_in.chmod(0o755)
    where = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **environment}
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "docker" / "entry.sh"), *arguments],
        env=where,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, "the server takes the place of the script, so that signals reach it"
    assert done.stdout.split("\n")[:-1] == ["serve", "--host", "0.0.0.0", "--port", "8000", *wanted]


def test_the_options_of_the_entry_script_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    script = (ROOT / "docker" / "entry.sh").read_text()
    assert all(option in shown for option in re.findall(r"--[a-z]+", script))


def test_the_image_is_made_of_files_that_there_are() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for line in re.findall("^COPY (.*)$", text, re.M):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources)
    ignored = (ROOT / ".dockerignore").read_text()
    assert all(
        f"!{source.split('/')[0]}" in ignored
        for line in re.findall("^COPY (.*)$", text, re.M)
        for source in line.split()[:-1]
    )
