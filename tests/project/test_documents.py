"""What the documents show runs, and what is made from code is up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
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


def test_results_that_no_run_has_written_are_refused(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import store

    path = store.append("speed", "cpu", {"rows": [{"speedup": 2.0, "speedup_quartiles": [1.5, 2.5]}]}, tmp_path)
    assert store.newest("speed", folder=tmp_path)["rows"][0]["speedup"] == 2.0
    store.append("speed", "cpu", {"rows": [{"speedup": 9.0, "speedup_quartiles": [1.5, 2.5]}]}, tmp_path)
    with pytest.raises(ValueError, match="line 2: a median speed-up"):
        list(store.read(path))
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0].replace("2.0", "3.0", 1), encoding="utf-8")
    with pytest.raises(ValueError, match="its hash is another"):
        list(store.read(path))


def test_every_command_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^    stagevar (\w+)", text, re.M))
    environment = os.environ | {"COLUMNS": "200"}
    help_text = subprocess.run(
        [sys.executable, "-m", "stagevar", "--help"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert commands and all(re.search(rf"\b{command}\b", help_text) for command in commands)
