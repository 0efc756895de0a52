"""Results of benchmarks: one file per benchmark, one line per run, appended and never rewritten.

A line says when and on which commit what was run, and holds a hash of all that, so that a figure which no run has
written is found by ``python benchmarks/report.py --check``.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def append(name: str, device: str, report: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Add a run to the file of a benchmark."""
    run = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": device,
        "report": report,
    }
    path = folder / f"{name}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run | {"sha256": digest(run)}) + "\n")
    return path


def newest(name: str, device: str = "cpu", folder: Path = RESULTS) -> Any:
    """The report of the latest run of a benchmark on a kind of device."""
    runs = [run for run in read(folder / f"{name}.jsonl") if run["device"] == device]
    return max(runs, key=lambda run: str(run["date"]))["report"]


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The runs of a file, each held against its hash.

    Raises:
        ValueError: a line that no run has written.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        run = json.loads(line)
        if run.pop("sha256", "") != digest(run):
            raise ValueError(f"{path.name}, line {number}: its hash is another; only runs write results")
        _check_sense(run["report"], f"{path.name}, line {number}")
        yield run


def digest(run: Mapping[str, Any]) -> str:
    """Of date, commit, command, device and all rows."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def _check_sense(value: Any, where: str) -> None:
    """Raise where figures contradict one another."""
    if isinstance(value, Mapping):
        if {"min", "median", "max"} <= set(value) and not value["min"] <= value["median"] <= value["max"]:
            raise ValueError(f"{where}: a median {value['median']} outside of its range")
        quartiles = value.get("speedup_quartiles")
        if quartiles and not quartiles[0] <= value["speedup"] <= quartiles[1]:
            raise ValueError(f"{where}: a median speed-up {value['speedup']} outside of its quartiles")
        for name in ("oracle", "relaxed", "ssim"):
            if isinstance(value.get(name), float) and not -1 <= value[name] <= 1:
                raise ValueError(f"{where}: {name} is {value[name]}")
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_sense(inner, where)


def _commit() -> str:
    """The commit that the code stands on, marked where files differ from it; "" outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return found.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
