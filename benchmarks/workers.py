"""A job that draws batch after batch, one that draws two batches at once, and two workers on Ray, on one machine:
``python benchmarks/workers.py [--rows 96]``.

All draw the same rows in turn, twice each, plain and accelerated. Loading and the start of Ray are left out, the first
and the last batch are not. Appends to ``results/workers.jsonl``: pictures per second of each, and how busy the machine
was besides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from store import append, arguments

BATCH = 8
ONE = """
import sys
import stagevar.jobs.drawn
from stagevar.cli import run
stagevar.jobs.drawn.default_lanes = lambda pipelines: 1
sys.exit(run(sys.argv[1:]))
"""
WAYS: dict[str, tuple[list[str], list[str]]] = {
    "one": (["-c", ONE], []),
    "two": (["-m", "stagevar"], []),
    "ray": (["-m", "stagevar"], ["--ray", "--workers", "2"]),
}
"""One batch at a time, two at once, workers of one core each: how the command is begun, and its options."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--accelerators", nargs="+", default=["none", "stagevar"])
    chosen = parser.parse_args()
    rates: dict[str, dict[str, list[float]]] = {each: {way: [] for way in WAYS} for each in chosen.accelerators}
    waiting = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.write_text("".join(json.dumps({"id": f"r{i}", "prompt": "a red star"}) + "\n" for i in range(chosen.rows)))
        for number in range(chosen.repeats):
            for place, accelerator in enumerate(chosen.accelerators):
                for way, (begun, more) in WAYS.items():
                    words = ["batch", str(rows), "-o", f"{folder}/{way}{number}{place}", "-a", accelerator, *more]
                    rates[accelerator][way].append(rate([*begun, *words]))
                    waiting.append(os.getloadavg()[0])
                    print(accelerator, way, rates[accelerator][way][-1], flush=True)
    report = {
        "model": "scenes",
        "rows": chosen.rows,
        "batch": BATCH,
        "cores": os.cpu_count(),
        "pictures_per_second": rates,
        "load_average": waiting,
    }
    append("workers", "cpu", report, chosen.out)


def rate(words: list[str]) -> float:
    """Pictures per second of one job."""
    command = [sys.executable, *words, "--batch-size", str(BATCH), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout)["rate"])


if __name__ == "__main__":
    main()
