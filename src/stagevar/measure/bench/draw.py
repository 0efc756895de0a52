"""Draw a batch and time it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stagevar.accelerators.base import Accelerator
from stagevar.engine.loop.trace import Trace
from stagevar.engine.plan.plan import Plan
from stagevar.measure.bench.peak import peak
from stagevar.pipeline import Pipeline
from stagevar.request import Request


@dataclass(frozen=True, slots=True)
class Drawn:
    """One batch by one accelerator.

    Attributes:
        pictures: (n, 3, height, width) in [0, 1].
        trace: record of the call.
        seconds: wall-clock time of the call.
        plans: the pictures' plans as they stood at the end.
        peak: most bytes of memory meanwhile; 0 where it cannot be told.
    """

    pictures: Tensor
    trace: Trace
    seconds: float
    plans: tuple[Plan, ...]
    peak: int = 0


def draw(pipeline: Pipeline, batch: Sequence[Request], accelerator: str | Accelerator) -> Drawn:
    """Draw one batch, and take its time and its memory."""
    requests = [replace(request, accelerator=accelerator) for request in batch]
    with peak(pipeline.device) as most:
        began = time.perf_counter()
        for event in pipeline.events(requests, batch_size=len(requests), output_type="pt"):
            last = event
        seconds = time.perf_counter() - began
    assert last.result is not None
    return Drawn(torch.stack(last.result.images), last.result.trace, seconds, last.plans, most.bytes)
