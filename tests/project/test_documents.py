"""What the documents show runs, and what is made from code is up to date."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "stars.png").exists() and len(list(tmp_path.glob("rings-*.png"))) == 10


@pytest.mark.parametrize("script", ["docs/api.py", "benchmarks/report.py"])
def test_made_pages_are_up_to_date(script: str) -> None:
    done = subprocess.run([sys.executable, ROOT / script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^    stagevar (\w+)", text, re.M))
    environment = os.environ | {"COLUMNS": "200"}
    help_text = subprocess.run(
        [sys.executable, "-m", "stagevar", "--help"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert commands and all(re.search(rf"\b{command}\b", help_text) for command in commands)


TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", TUTORIAL, re.S))
"""The accelerators of the tutorial by file name."""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, code in FILES.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    return tmp_path


def run(arguments: Sequence[str], path: Path) -> subprocess.CompletedProcess[str]:
    """Python, finding the modules of a folder, in that folder."""
    paths = os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=path, env=environment)


def test_the_method_of_the_tutorial_has_40_lines() -> None:
    assert list(FILES) == ["taper.py", "calm_single.py"] and len(FILES["taper.py"].splitlines()) <= 40


@pytest.mark.slow
def test_the_blocks_of_the_tutorial_run_in_their_order(files: Path) -> None:
    blocks = [code for code in re.findall(r"```python\n(.*?)```", TUTORIAL, re.S) if code not in FILES.values()]
    done = run(["-W", "error", "-c", "\n".join(blocks)], files)
    assert done.returncode == 0, done.stderr
    assert len(blocks) == 3 and (files / "stars.png").exists() and "drop_last(1)" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_accelerators_of_the_tutorial_keep_their_promises(name: str, files: Path) -> None:
    assert f"stagevar check {name}" in TUTORIAL or name != "taper.py"
    done = run(["-m", "stagevar", "check", name], files)
    assert done.returncode == 0, done.stdout


def test_the_accelerators_of_the_tutorial_work_as_plug_ins(files: Path) -> None:
    [table] = re.findall(r"```toml\n(.*?)```", TUTORIAL, re.S)
    read = tomllib.loads(table)
    assert [f"{module}.py" for module in read["tool"]["setuptools"]["py-modules"]] == list(FILES)
    (group, entries), *_ = read["project"]["entry-points"].items()
    info = files / "taper-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: taper\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    use = (
        "from stagevar.families.tiny import tiny; from stagevar.pipeline import Pipeline\n"
        "for text in ('drop_last(1)+taper(1)', 'calm_single(1.0)+drop_last(1)'):\n"
        "    trace = Pipeline(tiny('scenes'))('a star', seed=1, accelerator=text).trace\n"
        "    print(*(f'{record.branch} {record.rows}' for record in trace.records if record.run == 'full'))"
    )
    done = run(["-c", use], files)
    taper, calm = done.stdout.splitlines()
    assert taper == "both 2 both 8 both 18 both 30", done.stderr
    assert calm == "both 2 cond 4 cond 9 cond 25", done.stderr
    listed = {row["name"]: row for row in json.loads(run(["-m", "stagevar", "accelerators", "--json"], files).stdout)}
    assert listed["taper"]["origin"] == "taper:Taper" and listed["taper"]["owns"] == ["tokens", "cache"]
    assert "fastvar" not in listed["stagevar"]["combines_with"] or "taper" in listed["fastvar"]["combines_with"]
    assert listed["calm_single"]["online"] and listed["calm_single"]["hooks"] == ["revise"]
