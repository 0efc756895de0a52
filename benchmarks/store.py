"""Results of benchmarks: one file per benchmark, one line per run, appended and never rewritten.

A line says when, on which commit and by which command it was made, and holds a hash of all that. Lines that no run can
have written are found by ``python benchmarks/report.py --check`` (``plausible.py``). Commits that came into this
history squashed into one are listed in ``results/squashed.txt``; figures of theirs say so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from plausible import check

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SQUASHED = frozenset((RESULTS / "squashed.txt").read_text(encoding="utf-8").split())
MADE = ":!benchmarks/results", ":!docs/images"
"""What benchmarks themselves write; a change there is no change of what is measured."""


def arguments(about: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have: where to run, and the folder whose file the run is appended to."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


def append(name: str, device: str, report: Mapping[str, Any], folder: Path) -> None:
    """Add a run to the file of a benchmark."""
    run = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "device": torch.device(device).type,
        "report": report,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(run | {"sha256": digest(run)}) + "\n")


def newest(name: str, folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The latest run of a benchmark on each kind of device, the CPU first."""
    runs = {run["device"]: run for run in read(folder / f"{name}.jsonl")}
    return dict(sorted(runs.items(), key=lambda item: (item[0] != "cpu", item[0])))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The runs of a file, oldest first.

    Raises:
        ValueError: a line that no run can have written; says which and why.
    """
    before = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            run = json.loads(line)
            if run.pop("sha256", "") != digest(run):
                raise ValueError("its hash is another; only runs write results")
            check(run)
            if run["date"] < before:
                raise ValueError("it is older than the line above; runs are appended")
        except KeyError as error:
            raise ValueError(f"{path.name}, line {number}: it has no {error}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name}, line {number}: {error}") from None
        before = run["date"]
        yield run


def digest(run: Mapping[str, Any]) -> str:
    """SHA-256 of date, commit, command, device and all rows."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def commit() -> str:
    """The commit that the code stands on, with ``-dirty`` where files differ from it; "" outside a checkout."""
    return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain", "-uno", "--", ".", *MADE) else "")


def unknown_commits(folder: Path = RESULTS) -> list[str]:
    """Commits of results that the history of this checkout holds neither as they were nor squashed.

    A commit that was amended afterwards may lie in the checkout still, and no clone of it has it: only ancestors count.
    None where there is no whole history.
    """
    if _git("rev-parse", "--is-shallow-repository") != "false":
        return []
    runs = [run for path in sorted(folder.glob("*.jsonl")) for run in read(path)]
    named = {str(run["commit"]).removesuffix("-dirty") for run in runs}
    return sorted(named - SQUASHED - set(_git("rev-list", "HEAD").split()))


def _git(*words: str) -> str:
    found = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return found.stdout.strip()
