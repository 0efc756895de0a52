"""The most memory that a piece of work takes, and what of it the cache of keys and values was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.loop.cohort import stored_in
from stagevar.engine.loop.trace import Trace
from stagevar.engine.plan.plan import Plan
from stagevar.measure.predict.shapes import part_shapes

PROCESS = Path("/proc/self")


@dataclass
class Peak:
    """The largest memory, in bytes: of the device on CUDA, else of the process. 0 where it cannot be told."""

    bytes: int = 0


@contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Watch the memory until the end of the context."""
    found = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.bytes = torch.cuda.max_memory_allocated(device)
        return
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")  # resets the peak that Linux keeps of the process
    yield found
    with suppress(OSError, StopIteration):
        lines = (PROCESS / "status").read_text().splitlines()
        found.bytes = 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def cache_bytes(model: ScaleModel, trace: Trace, plans: Sequence[Plan]) -> int:
    """Bytes of the keys and values of all pictures of a call before the scale at which they were most."""
    positions: dict[int, int] = defaultdict(int)
    for record in trace.records:
        positions[record.scale] += record.cached * len(record.images) * (2 if record.branch == "both" else 1)
    width = next(shape.width for shape in part_shapes(model.layers[0]) if shape.role == "attention")
    return max(positions.values()) * model.depth * 2 * width * (stored_in(plans[0]) or model.dtype).itemsize
