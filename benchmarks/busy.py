"""A picture beside another busy process: ``python benchmarks/busy.py``.

The shipped model draws in processes of their own, alone and beside one process that computes all the time: with threads
that wait as ``stagevar.threads`` settles it, and as PyTorch leaves them. Appends to ``results/busy.jsonl``: the median
and range of seconds per picture, and the ratio of busy to alone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from store import append, arguments

from stagevar.machine import machine
from stagevar.pipeline import Pipeline
from stagevar.threads import SPINS

SETTINGS = {"stagevar": SPINS[1], "PyTorch": "300000"}
"""Turns that a waiting thread spins; the second number is libgomp's own default."""

DRAW = """
import json, sys, time
from stagevar import Pipeline
pipe = Pipeline.from_pretrained("scenes", device="cpu")
seconds = []
for seed in range(int(sys.argv[1]) + 1):
    began = time.perf_counter()
    pipe("a red circle to the left of a blue square", seed=seed)
    seconds.append(time.perf_counter() - began)
print(json.dumps(seconds[1:]))
"""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    rows = []
    for name, turns in SETTINGS.items():
        alone = drawn(turns, options.repeats)
        with busy():
            beside = drawn(turns, options.repeats)
        rows.append(
            {
                "waiting": name,
                "spins": turns,
                "alone_seconds": spread(alone),
                "busy_seconds": spread(beside),
                "ratio": statistics.median(beside) / statistics.median(alone),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    report = {**machine(Pipeline.from_pretrained("scenes", device="cpu").model), "repeats": options.repeats}
    append("busy", "cpu", report | {"model": "scenes", "batch": 1, "cores": os.cpu_count(), "rows": rows}, options.out)


def drawn(turns: str, repeats: int) -> list[float]:
    """Seconds of each picture in a new process."""
    settings = os.environ | {SPINS[0]: turns}
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(repeats)], env=settings, capture_output=True, text=True, check=True
    )
    return [float(each) for each in json.loads(done.stdout)]


@contextmanager
def busy() -> Iterator[None]:
    """One process that computes all the time."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def spread(seconds: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


if __name__ == "__main__":
    main()
