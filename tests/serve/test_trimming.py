"""Freed memory goes back to the system while a server runs."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading

import pytest

from stagevar.pipeline import Pipeline
from stagevar.serve import trimming

from .conftest import serving

FREES = """
import mmap
from pathlib import Path
from stagevar.serve.trimming import trim

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 1e6

blocks = [bytes(100_000) for _ in range(1000)]
held = blocks[-1]
del blocks
before = resident()
trim()
print(before - resident())
"""
"""Frees 100 MB below a block that stays."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_was_freed_goes_back_to_the_system() -> None:
    found = subprocess.run([sys.executable, "-c", FREES], capture_output=True, text=True, check=True)
    assert float(found.stdout) > 40


def test_a_server_gives_memory_back_as_long_as_it_runs(
    pipelines: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    twice, times = threading.Event(), []

    def trim() -> None:
        times.append(1)
        if len(times) == 2:
            twice.set()

    monkeypatch.setattr(trimming, "trim", trim)
    monkeypatch.setattr(trimming, "PAUSE", 0.01)
    with serving(pipelines):
        assert twice.wait(10)
