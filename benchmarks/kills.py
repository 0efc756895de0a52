"""What a job loses when its processes are killed: ``python benchmarks/kills.py [--rows 1000]``.

One job draws here, one by two workers on Ray. The process that began each job is killed with SIGKILL, and of the
second job workers too, each time after another share of the rows; then the job is run to its end. Appends to
``results/kills.jsonl``: pictures that were lost, that were noted as finished and yet drawn again, and that were drawn
again because the kill came between their file and its note.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store import append, arguments

SHAPES, COLOURS = ("star", "ring", "circle", "square"), ("red", "blue", "green", "yellow")
BATCH = 8
WORKER = b"ray::Worker"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--accelerator", default="drop_last(4)")
    chosen = parser.parse_args()
    report: dict[str, Any] = {"model": "scenes", "accelerator": chosen.accelerator, "batch": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        found = [f"a {COLOURS[i % 4]} {SHAPES[i // 4 % 4]}" for i in range(chosen.rows)]
        rows.write_text("".join(json.dumps({"id": f"r{i}", "prompt": text}) + "\n" for i, text in enumerate(found)))
        command = [sys.executable, "-m", "stagevar", "batch", str(rows), "-a", chosen.accelerator]
        command += ["--batch-size", str(BATCH), "--json"]
        report["here"] = killed(command, Path(folder) / "here", chosen.rows, "ddd")
        report["ray"] = killed([*command, "--ray", "--workers", "2"], Path(folder) / "ray", chosen.rows, "wwdwd")
    print(json.dumps(report))
    append("kills", "cpu", report, chosen.out)


def killed(command: Sequence[str], out: Path, rows: int, kills: str) -> dict[str, Any]:
    """Run a job with kills in it.

    Args:
        command: of the job, without its folder.
        out: its folder.
        rows: how many it has.
        kills: what is killed, in order: d the driver, which is then started again, w a worker.
    """
    running, before = _start(command, out), Snapshot({}, set())
    seen, again, noted_again = set[str](), 0, 0
    for number, what in enumerate([*kills, ""], 1):
        while what and len(_pictures(out)) < rows * number // (len(kills) + 1):
            if running.poll() is not None:
                raise RuntimeError(f"the job ended before kill {number}")
            time.sleep(0.1)
        if what == "w":
            os.kill(next(_workers(running.pid)), signal.SIGKILL)
            continue
        if what == "d":
            running.kill()
        printed = running.communicate()[0]
        now = Snapshot.of(out)
        changed = {name for name, at in now.pictures.items() if before.pictures.get(name, at) != at}
        again, noted_again = again + len(changed), noted_again + len(changed & before.noted)
        before, seen = now, seen | now.pictures.keys()
        if what:
            running = _start(command, out)
    return {
        "pictures": len(before.pictures),
        "kills": {"driver": kills.count("d"), "worker": kills.count("w")},
        "lost": len(seen - before.pictures.keys()),
        "missing": rows - len(before.pictures),
        "bad": json.loads(printed)["bad"],
        "noted_and_drawn_again": noted_again,
        "written_and_drawn_again": again,
    }


@dataclass(frozen=True)
class Snapshot:
    """A job's folder while nobody works on it: its pictures with their times, and the rows that are noted."""

    pictures: dict[str, int]
    noted: set[str]

    @classmethod
    def of(cls, out: Path) -> Snapshot:
        return cls(_pictures(out), _noted(out))


def _start(command: Sequence[str], out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*command, "-o", str(out)], stdout=subprocess.PIPE, text=True)


def _pictures(out: Path) -> dict[str, int]:
    """The finished files, each with the time of its last change in nanoseconds."""
    return {path.stem: path.stat().st_mtime_ns for path in out.glob("r*.png")}


def _noted(out: Path) -> set[str]:
    """The rows that a killed job's ledger holds, read from a copy of its files."""
    with tempfile.TemporaryDirectory() as folder:
        for path in (out / "job").glob("ledger.sqlite*"):
            shutil.copy(path, folder)
        database = sqlite3.connect(Path(folder) / "ledger.sqlite")
        found = {name for (name,) in database.execute("SELECT id FROM finished")}
        database.close()
        return found


def _workers(driver: int) -> Iterator[int]:
    """The processes that draw for a driver."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "stat").read_text().rpartition(") ")[2].split()
            parents[int(process.name)] = int(status[1]), (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
    for number, (above, words) in parents.items():
        while words.startswith(WORKER) and above in parents:
            if above == driver:
                yield number
                break
            above = parents[above][0]


if __name__ == "__main__":
    main()
