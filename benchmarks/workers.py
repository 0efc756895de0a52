"""Two workers on Ray against one process on the same machine: ``python benchmarks/workers.py [--rows 96]``.

Both draw the same rows in turn, twice each. Loading and the start of Ray are left out, the first and the last batch are
not. Appends to ``results/workers.jsonl``: pictures per second of each, the ratio, and how busy the machine was besides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean

from store import append, arguments

BATCH = 4


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=2)
    chosen = parser.parse_args()
    rates: dict[str, list[float]] = {"here": [], "ray": []}
    waiting = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.write_text("".join(json.dumps({"id": f"r{i}", "prompt": "a red star"}) + "\n" for i in range(chosen.rows)))
        for number in range(chosen.repeats):
            for name, more in (("here", []), ("ray", ["--ray", "--workers", "2"])):
                rates[name].append(rate(rows, Path(folder) / f"{name}{number}", more))
                waiting.append(os.getloadavg()[0])
    report = {
        "model": "scenes",
        "rows": chosen.rows,
        "batch": BATCH,
        "cores": os.cpu_count(),
        "pictures_per_second": rates,
        "ratio": fmean(rates["ray"]) / fmean(rates["here"]),
        "load_average": waiting,
    }
    print(json.dumps(report))
    append("workers", "cpu", report, chosen.out)


def rate(rows: Path, out: Path, more: list[str]) -> float:
    """Pictures per second of one job."""
    command = [sys.executable, "-m", "stagevar", "batch", str(rows), "-o", str(out), "--batch-size", str(BATCH)]
    done = subprocess.run([*command, "--json", *more], stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout)["rate"])


if __name__ == "__main__":
    main()
