"""How PyTorch's threads wait: settled before torch is imported, and never against the user's own setting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stagevar import threads

TELL = "import os; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_NUM_THREADS'))"


def told(code: str, **own: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in (*threads.USERS_OWN, "OMP_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean | own)
    return done.stdout.strip()


def test_threads_spin_briefly_if_stagevar_comes_first() -> None:
    assert told(f"import stagevar; {TELL}").startswith("1000 ")
    assert "GOMP_SPINCOUNT=1000" in told("from stagevar.threads import waiting; print(waiting())")


def test_nothing_is_set_behind_torch_or_against_the_user() -> None:
    assert told(f"import torch, stagevar; {TELL}").startswith("None ")
    assert "import stagevar before torch" in told(
        "import torch; from stagevar.threads import waiting; print(waiting())"
    )
    assert told(f"import stagevar; {TELL}", OMP_WAIT_POLICY="active").startswith("None ")
    assert told(f"import stagevar; {TELL}", GOMP_SPINCOUNT="7").startswith("7 ")
    assert "which is your own" in told("from stagevar.threads import waiting; print(waiting())", GOMP_SPINCOUNT="7")


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", None), ("150000 100000", 1), ("400000 100000", 4), ("50000 100000", 1), ("nonsense", None)],
)
def test_a_container_s_limit_is_read(
    limit: str, cores: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(limit)
    monkeypatch.setattr(threads, "QUOTA", path)
    assert threads.quota() == cores


def test_a_container_s_limit_sets_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpu.max"
    path.write_text("100000 100000")
    monkeypatch.setattr(threads, "QUOTA", path)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(sys, "modules", {name: each for name, each in sys.modules.items() if name != "torch"})
    monkeypatch.setattr(os, "environ", {})
    threads.settle()
    assert os.environ == {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "1"}
