"""What the documents show runs, and what is made from code is up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
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


def test_the_accelerators_of_the_documents_work_as_plug_ins(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "accelerators.md").read_text(encoding="utf-8")
    names = re.findall(r"`(\w+\.py)`:\n\n```python", text)
    code = re.findall(r"```python\n(.*?)```", text, re.S)
    [table] = re.findall(r"```toml\n(.*?)```", text, re.S)
    for name, page in zip(names, code, strict=True):
        (tmp_path / name).write_text(page, encoding="utf-8")
    read = tomllib.loads(table)
    assert [f"{module}.py" for module in read["tool"]["setuptools"]["py-modules"]] == names
    (group, entries), *_ = read["project"]["entry-points"].items()
    info = tmp_path / "late_single-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late-single\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    use = (
        "from stagevar.families.tiny import tiny; from stagevar.pipeline import Pipeline\n"
        "for text in ('late_single(0.5)+drop_last(1)', 'calm_single(1.0)+drop_last(1)'):\n"
        "    trace = Pipeline(tiny('scenes'))('a star', seed=1, accelerator=text).trace\n"
        "    print(*(record.branch for record in trace.records if record.run == 'full'))"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", use],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.stdout.splitlines() == ["both both cond cond", "both cond cond cond"], done.stderr
