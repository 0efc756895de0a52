"""Two runs of one seed, plain and accelerated: each is drawn once to be seen, and again to be timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from PIL.Image import Image
from torch import Tensor

from stagevar.engine.grids.grid import Schedule
from stagevar.engine.loop.call import Tap
from stagevar.engine.loop.trace import Trace
from stagevar.engine.plan.plan import Plan
from stagevar.measure.predict.explain import attended
from stagevar.measure.predict.flops import operations
from stagevar.measure.why.notes import Note, Noting
from stagevar.measure.why.ran import RowsRan
from stagevar.pipeline import Pipeline
from stagevar.request import Request

REPEATING, MOST_REPEATS = 2.0, 4
"""A run is repeated to be timed while that takes less than these seconds, and at most so often. On CUDA the second
repeat captures graphs and the third is the first that replays them."""


@dataclass
class Run:
    """One of the two runs, as far as it has got.

    Attributes:
        previews: the picture after every scale.
        plan: as it stands; an accelerator may revise it between scales.
        traces: of each time that it was drawn; the first one was watched.
    """

    previews: list[Image] = field(default_factory=list)
    plan: Plan | None = None
    traces: list[Trace] = field(default_factory=list)

    @property
    def timed(self) -> list[Trace]:
        """Fastest first: the repeats, or the first run if there are none."""
        return sorted(self.traces[1:] or self.traces, key=lambda trace: trace.network_milliseconds)

    @property
    def trace(self) -> Trace:
        """The run of median time, of an even number the faster."""
        return self.timed[(len(self.timed) - 1) // 2]


@dataclass
class Comparison:
    """Both runs of one request. ``draw`` fills it step by step.

    Attributes:
        pipeline: that draws.
        request: of the accelerated run; the plain one differs in the accelerator alone.
        cancelled: asked before every scale; True ends both runs.
        schedule: grids of the scales.
        plain, accelerated: the two runs.
        shares: per scale (h, w): how much of the network each place has passed in the accelerated run.
        notes: by scale, what the accelerator was told of the picture and decided by.
        fewer_operations: operations of the plain run over those of the accelerated one; 0 before both are done.
    """

    pipeline: Pipeline
    request: Request
    cancelled: Callable[[], bool] = lambda: False
    schedule: Schedule = field(init=False)
    plain: Run = field(default_factory=Run)
    accelerated: Run = field(default_factory=Run)
    shares: list[Tensor] = field(init=False)
    notes: dict[int, Note] = field(default_factory=dict)
    fewer_operations: float = 0.0

    def __post_init__(self) -> None:
        self.schedule = self.pipeline.prepare(self.request).schedule
        self.shares = [torch.zeros(grid) for grid in self.schedule]

    def draw(self) -> Iterator[str]:
        """Draw both runs; says after every step what has been done.

        Raises:
            as ``Pipeline.events``.
        """
        model, watch = self.pipeline.model, RowsRan(self.pipeline.model, self.schedule)
        self.shares = watch.shares
        noting = Noting(self.pipeline.prepare(self.request).accelerator, self.notes)
        plain = replace(self.request, accelerator="none")
        yield from self._draw(self.plain, plain, plain, "plain", None)
        noted = replace(self.request, accelerator=noting)
        yield from self._draw(self.accelerated, self.request, noted, "accelerated", watch)
        for k in self.notes.keys() - set(self.accelerated.trace.executed(0)):
            del self.notes[k]  # of a made-up picture, at a scale that this one did not run
        count = operations(model, self.schedule, attended(model, self.request))
        assert self.plain.plan is not None and self.accelerated.plan is not None
        self.fewer_operations = count(self.plain.plan) / count(self.accelerated.plan)

    def _draw(self, run: Run, request: Request, watched: Request, name: str, tap: Tap | None) -> Iterator[str]:
        """Draw a run once to be seen, as ``watched`` says, and then as often as its time allows."""
        for event in self.pipeline.events([watched], tap=tap, cancelled=self.cancelled):
            run.previews.append(event.preview)
            run.plan = event.plans[0]
            if event.result is not None:
                run.traces.append(event.result.trace)
            h, w = event.grid
            yield f"{name} run: scale {event.scale + 1} of {event.scales}, {h}x{w} tokens"
        expected, began = run.trace.network_milliseconds / 1e3, time.perf_counter()
        while len(run.traces) <= MOST_REPEATS and time.perf_counter() - began + expected < REPEATING:
            yield f"{name} run: once more, to be timed"
            *_, last = self.pipeline.events([request], output_type="latent", cancelled=self.cancelled)
            assert last.result is not None
            run.traces.append(last.result.trace)
