"""Fit an accelerator's numbers to a model: plain pictures are looked at half way, and drawn again by what may be done
with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
        OptionError: no prompts, a batch below 1, or a schedule that the accelerator cannot be fitted to.
        RequestError and its kinds, NumericError.
    """
    if not prompts or batch_size < 1:
        raise OptionError("a fit needs at least one prompt and a batch of 1 or more")
    seeds = range(seed, seed + len(prompts))
    requests = expand(list(prompts), seed=seeds, guidance_scale=guidance, accelerator=PLAIN, **settings)
    prepared = pipeline.prepare(requests[0])
    k, watch = accelerator.looks(prepared.schedule)
    at, trials = Scale(prepared.schedule, k), accelerator.trials(prepared.schedule)
    for trial in trials:
        pipeline.prepare(replace(requests[0], accelerator=trial))
    seen, alike = list[Tensor](), list[Tensor]()
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        numbers, plain = looked(pipeline, batch, at, watch)
        seen.append(numbers)
        alike.append(torch.stack([ssim(draw(pipeline, batch, trial).pictures, plain) for trial in trials]))
        if progress is not None:
            progress(start + len(batch))
    facts = machine(pipeline.model)
    return Fit(
        accelerator=accelerator.name,
        model=pipeline.model.name,
        versions={name: facts[name] for name in ("stagevar", "torch")},
        schedule=prepared.schedule,
        guidance=tuple(scale.guidance for scale in prepared.plan),
        prompts=len(requests),
        seed=seed,
        numbers=accelerator.fitted(torch.cat(seen), torch.cat(alike, 1)),
    )


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
