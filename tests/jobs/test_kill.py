"""A job whose processes are killed: nothing finished is lost, nothing is drawn twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from stagevar.errors import StagevarError
from stagevar.families.tiny import tiny
from stagevar.jobs.cluster import Cluster
from stagevar.jobs.drawn import Drawn
from stagevar.jobs.job import Job
from stagevar.jobs.rows import Bad, Numbered, Row
from stagevar.jobs.store import Store
from stagevar.loading.save import save_model

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny("var"), folder)
    return folder


def pictures(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


def test_a_killed_run_goes_on(tmp_path: Path, model: Path, command: Run) -> None:
    rows, out, count = tmp_path / "rows.jsonl", tmp_path / "out", 200
    rows.write_text("".join(json.dumps({"id": f"r{i}", "prompt": i % 4}) + "\n" for i in range(count)))
    arguments = ["batch", str(rows), "-m", str(model), "-o", str(out), "--batch-size", "2", "--json"]
    running = subprocess.Popen([sys.executable, "-m", "stagevar", *arguments], stdout=subprocess.DEVNULL)
    while len(pictures(out)) < 10:
        assert running.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = pictures(out)
    code, printed, _ = command(*arguments)
    done = json.loads(printed)
    after = pictures(out)
    assert code == 0 and done["before"] + done["drawn"] == len(after) == count and done["before"] >= len(before) - 2
    assert sum(before[name] != after[name] for name in before) <= 2, "only the batch that was being noted is redone"


def cluster(model: Path) -> Cluster:
    return Cluster({"source": str(model), "device": "cpu"}, 0, 2, workers=2)


def test_a_killed_worker_s_rows_are_drawn_once_more(tmp_path: Path, model: Path) -> None:
    pytest.importorskip("ray")
    rows = [Numbered(i + 1, Row(f"r{i}", str(i % 4))) for i in range(60)]
    job, killed = Job(rows, Store(tmp_path), {}, batch_size=2), list[int]()
    with job.open() as ledger, cluster(model) as workers:

        def drawn(windows: Iterable[Sequence[Numbered]]) -> Iterator[list[Drawn] | Bad]:
            for found in workers(windows):
                if not killed:
                    killed.append(_kill_worker())
                yield found

        done = job.run(ledger, drawn)
    assert killed and (done.drawn, done.bad) == (60, 0), "the ledger refuses a row that is finished twice"
    assert len(pictures(tmp_path)) == 60


def test_what_a_worker_cannot_load_is_said(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(StagevarError, match="nothing"), cluster(tmp_path / "nothing"):
        pass


def _kill_worker() -> int:
    """Kill one of the processes that draw."""
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(b"ray::Worker"):
            os.kill(int(process.name), signal.SIGKILL)
            return int(process.name)
    raise AssertionError("no worker is there")
