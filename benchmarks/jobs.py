"""What a job costs beside its pictures: ``python benchmarks/jobs.py [--rows 1000000]``.

A stand-in for the model gives every row the same small picture, so that reading, keeping and noting are all that is
measured. Appends to ``results/jobs.jsonl``: rows per second, the growth of memory between the first tenth and the end,
and the seconds that a second run of the finished job takes, by the clock and of the processor.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image
from store import append, arguments

from stagevar.jobs.drawn import Drawn, encoded
from stagevar.jobs.job import Job, Progress
from stagevar.jobs.rows import Bad, Numbered, Source
from stagevar.jobs.store import Store

BATCH = 64


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measured(Path(folder), chosen.rows)
    print(json.dumps(report))
    append("jobs", "cpu", report | {"machine": platform.machine()}, chosen.out)


def measured(folder: Path, count: int) -> dict[str, float]:
    rows = folder / "rows.jsonl"
    with rows.open("w") as out:
        out.writelines(json.dumps({"id": f"r{i:07d}", "prompt": "a star"}) + "\n" for i in range(count))
    resident: dict[bool, int] = {}

    def told(progress: Progress) -> None:
        if progress.drawn % (BATCH * 64) == 0:
            resident[progress.drawn * 10 > count] = _resident()

    first = run(rows, folder / "out", told)
    began, work = time.perf_counter(), time.process_time()
    second = run(rows, folder / "out", told)
    assert (first.drawn, second.drawn, second.before) == (count, 0, count)
    return {
        "pictures": count,
        "rows_per_second": first.rate,
        "memory_growth_bytes": resident[True] - resident[False],
        "resume_seconds": time.perf_counter() - began,
        "resume_processor_seconds": time.process_time() - work,
    }


def run(rows: Path, out: Path, told: Callable[[Progress], object]) -> Progress:
    job = Job(Source.read(rows), Store(out, "webdataset"), {}, BATCH)
    with job.open() as ledger:
        return job.run(ledger, _drawn, told=told)


def _drawn(windows: Iterable[Sequence[Numbered]]) -> Iterator[list[Drawn] | Bad]:
    record = {"id": "", "prompt": "a star", "seed": 0, "model": "stand-in", "accelerator": "none", "scales": []}
    png = encoded(Image.new("RGB", (64, 64)), record)
    for window in windows:
        yield [Drawn(each.row.id, each.row.digest(), png, record | {"id": each.row.id}) for each in window]


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
