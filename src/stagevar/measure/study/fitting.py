"""Fit an accelerator's numbers to a model: plain pictures are looked at half way, and drawn again by what may be done
with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from stagevar.calling import expand
from stagevar.engine.grids.computing import computing
from stagevar.engine.grids.grid import Scale
from stagevar.engine.plan.watch import Seen, Watch
from stagevar.errors import OptionError
from stagevar.fit import Fit, Fittable
from stagevar.machine import machine
from stagevar.measure.bench.compare import PLAIN
from stagevar.measure.bench.draw import draw
from stagevar.measure.likeness.fidelity import ssim
from stagevar.pipeline import Pipeline
from stagevar.request import PerScale, Request

LEAST = 8
"""Fewest pictures of a fit: of fewer, the margin that nine in ten pictures keep to is that of the worst one."""


def fit(
    pipeline: Pipeline,
    accelerator: Fittable,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    guidance: PerScale | None = None,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> Fit:
    """Draw every prompt with the plain run and with each of the accelerator's trials, with the same noise.

    Args:
        pipeline: any model of the package.
        accelerator: says where pictures are looked at, what is tried, and what follows from both.
        prompts: one picture each; picture i has seed ``seed + i``.
        guidance: strength, or one weight per scale; the model's default if None.
        batch_size: pictures per pass.
        progress: told how many prompts are done.
        settings: other fields of ``Request``, such as height and width.

    Raises:
        OptionError: too few prompts, a batch below 1, or a schedule that the accelerator cannot be fitted to.
        RequestError and its kinds, NumericError.
    """
    require_enough(len(prompts))
    if batch_size < 1:
        raise OptionError(f"batch_size must be 1 or more, not {batch_size}")
    seeds = range(seed, seed + len(prompts))
    requests = expand(list(prompts), seed=seeds, guidance_scale=guidance, accelerator=PLAIN, **settings)
    prepared = pipeline.prepare(requests[0])
    k, watch = accelerator.looks(prepared.schedule)
    facts = machine(pipeline.model)
    found = Fit(
        accelerator=accelerator.name,
        model=pipeline.model.name,
        versions={name: facts[name] for name in ("stagevar", "torch")},
        schedule=prepared.schedule,
        guidance=tuple(scale.guidance for scale in prepared.plan),
        prompts=len(requests),
        seed=seed,
        numbers={},
    )
    batches = [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]
    learning = accelerator.learns(prepared.schedule, pipeline.model.depth)
    with TemporaryDirectory(prefix="stagevar-") as folder:
        learnt = Path(folder) / "fit.json"
        trials = accelerator.trials(prepared.schedule, str(learnt))
        found = replace(found, numbers={} if learning is None else {"fills": []})
        found.save(learnt)
        for trial in trials:
            pipeline.prepare(replace(requests[0], accelerator=trial))
        if learning is not None:
            for batch in _counted(batches, progress):
                deque(pipeline.events(batch, batch_size=len(batch), output_type="latent", tap=learning), maxlen=0)
            found = replace(found, numbers={"fills": learning.numbers()})
            found.save(learnt)
        seen, alike = list[Tensor](), list[Tensor]()
        for batch in _counted(batches, progress):
            numbers, plain = looked(pipeline, batch, Scale(prepared.schedule, k), watch)
            seen.append(numbers)
            alike.append(torch.stack([ssim(draw(pipeline, batch, trial).pictures, plain) for trial in trials]))
    return replace(found, numbers={**found.numbers, **accelerator.fitted(torch.cat(seen), torch.cat(alike, 1))})


def require_enough(prompts: int) -> None:
    """Raise unless there are enough pictures for a fit to hold for others.

    Raises:
        OptionError
    """
    if prompts < LEAST:
        raise OptionError(f"a fit needs {LEAST} pictures or more, and better dozens, not {prompts}; give more captions")


def _counted(batches: Sequence[list[Request]], progress: Callable[[int], None] | None) -> Iterator[list[Request]]:
    """The batches, each told of when it is done."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        if progress is not None:
            progress(done)


def looked(pipeline: Pipeline, batch: Sequence[Request], at: Scale, watch: Watch) -> tuple[Tensor, Tensor]:
    """The numbers (n, numbers of the watch) of a batch behind a scale, and its finished pictures (n, 3, h, w)."""
    model, latents = pipeline.model, list[Tensor]()
    for event in pipeline.events(batch, batch_size=len(batch), output_type="pt"):
        latents.append(event.latent)
    assert event.result is not None
    before = latents[at.k - 1] if at.k else torch.zeros_like(latents[0])
    with computing():
        here = Seen(at, None, latents[at.k], latents[at.k] - before, model.decode, model.picture_size)
        return watch.numbers(here).float().cpu(), torch.stack(event.result.images)
