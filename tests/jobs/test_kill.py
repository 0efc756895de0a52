"""A job whose processes are killed: nothing finished is lost, nothing is drawn twice."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from stagevar.errors import StagevarError
from stagevar.families.tiny import tiny
from stagevar.jobs.cluster import Cluster, Worker
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


@pytest.mark.parametrize("form", ["files", "webdataset"])
def test_a_full_disk_ends_a_run_with_one_line_and_it_goes_on(
    tmp_path: Path, model: Path, command: Run, form: str
) -> None:
    """A limit on the size of files stands in for the disk: the ledger or the shard reaches it."""
    rows, out, count = tmp_path / "rows.jsonl", tmp_path / "out", 120
    rows.write_text("".join(json.dumps({"id": f"r{i}", "prompt": i % 4}) + "\n" for i in range(count)))
    arguments = ["batch", str(rows), "-m", str(model), "-o", str(out), "--batch-size", "4", "--format", form]
    batch = [sys.executable, "-m", "stagevar", *arguments, "--shard-size", "1000"]
    limited = ["bash", "-c", 'ulimit -f 128; exec "$@"', "bash", *batch]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 6 and done.stderr.count("\n") == 1 and "cannot write" in done.stderr, done.stderr
    before = pictures(out)
    code, printed, _ = command(*arguments, "--shard-size", 1000, "--json")
    found = json.loads(printed)
    assert code == 0 and found["before"] + found["drawn"] == count and found["before"] > 0
    assert form != "files" or sum(before[name] != at for name, at in pictures(out).items() if name in before) <= 4


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


class Uneven(Worker):
    """Draws nothing; the worker of a job that is asked first is a slow one."""

    slow: bool | None = None

    def draw(self, rows: Sequence[Numbered]) -> list[list[Drawn] | Bad]:
        if self.slow is None:
            self.slow = False
            with suppress(FileExistsError):
                (Path(self._load["source"]) / "slow").touch(exist_ok=False)
                self.slow = True
        time.sleep(1.0 if self.slow and rows else 0.01)
        record = {"prompt": "a", "seed": 1, "accelerator": "none", "scales": [], "stagevar": "0", "slow": self.slow}
        return [[Drawn(each.row.id, each.row.digest(), b"png", {"id": each.row.id, **record})] for each in rows]


def test_a_slow_worker_gets_fewer_rows(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    rows = [Numbered(i + 1, Row(f"r{i}", "1")) for i in range(200)]
    job = Job(rows, Store(tmp_path / "out"), {}, batch_size=2)
    with job.open() as ledger, Cluster({"source": str(tmp_path)}, 0, 2, workers=2, kind=Uneven) as workers:
        done = job.run(ledger, workers)
    slow = [json.loads(path.read_text())["slow"] for path in (tmp_path / "out").glob("r*.json")]
    assert (done.drawn, len(slow)) == (200, 200) and 0 < sum(slow) < 50


def test_a_cluster_that_goes_away_ends_a_run_with_one_line_and_it_goes_on(
    tmp_path: Path, model: Path, command: Run
) -> None:
    pytest.importorskip("ray")
    rows, out, count = tmp_path / "rows.jsonl", tmp_path / "out", 400
    rows.write_text("".join(json.dumps({"id": f"r{i}", "prompt": i % 4}) + "\n" for i in range(count)))
    arguments = ["batch", str(rows), "-m", str(model), "-o", str(out), "--batch-size", "2", "-q"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    own = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_worker_niceness": "0"}
    start = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--num-cpus",
        "2",
        "--port",
        port,
    ]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=own) as head:
        try:
            _await_port(int(port))
            batch = [sys.executable, "-m", "stagevar", *arguments, "--ray-address", f"127.0.0.1:{port}"]
            running = subprocess.Popen(batch, stderr=subprocess.PIPE, text=True, env=own)
            while len(pictures(out)) < 10:
                assert running.poll() is None, running.communicate()
                time.sleep(0.1)
            for name in (b"gcs_server", b"raylet"):
                for process in _processes(head.pid, name):
                    os.kill(process, signal.SIGKILL)
            error = running.communicate(timeout=120)[1]
        finally:
            head.terminate()
    assert running.returncode == 7 and error.splitlines()[-1].startswith("error: the Ray cluster at"), error
    before = pictures(out)
    assert command(*arguments)[0] == 0
    after = pictures(out)
    assert len(after) == count and all(after[name] == at for name, at in before.items())


def _await_port(port: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            time.sleep(5)  # the head accepts connections before its machine has joined
            return
        time.sleep(0.2)
    raise AssertionError("the cluster did not start")


def _kill_worker() -> int:
    """Kill one of the processes that draw for this one."""
    process = next(_processes(os.getpid(), b"ray::Worker"))
    os.kill(process, signal.SIGKILL)
    return process


def _processes(above: int, name: bytes) -> Iterator[int]:
    """The processes below another whose program has a name."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            program = (process / "cmdline").read_bytes().split(b"\0")[0]
            if program.rpartition(b"/")[2].startswith(name) and above in _above(int(process.name)):
                yield int(process.name)


def _above(process: int) -> Iterator[int]:
    """The processes that a process descends from."""
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[1])
        yield process
