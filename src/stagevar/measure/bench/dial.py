"""The dial of our accelerator, measured on a model: what each quality costs and how close it comes to the plain run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from stagevar.calling import expand
from stagevar.errors import OptionError
from stagevar.measure.bench.compare import PLAIN
from stagevar.measure.bench.draw import draw
from stagevar.measure.likeness.fidelity import ssim
from stagevar.measure.predict.explain import text_rows
from stagevar.measure.predict.flops import operations
from stagevar.measure.study.curves import LOW, quantile
from stagevar.pipeline import Pipeline
from stagevar.profile import DialPoint
from stagevar.request import PerScale

QUALITIES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
"""Settings that are measured if none are given."""


def measure_dial(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    qualities: Sequence[float] = QUALITIES,
    seed: int = 0,
    guidance: PerScale | None = None,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> tuple[DialPoint, ...]:
    """Draw every prompt with the plain run and with ``stagevar`` at each quality, with the same noise.

    Args:
        pipeline: any model of the package.
        prompts: one picture each; picture i has seed ``seed + i``.
        qualities: settings of the dial, each in [0, 1).
        guidance: strength, or one weight per scale; the model's default if None.
        batch_size: pictures per pass.
        progress: told how many pictures are done, of ``len(prompts) * (len(qualities) + 1)``.
        settings: other fields of ``Request``, such as height and width.

    Returns:
        A point per quality, lowest first. Means are made monotone: a dip below the previous point is noise and is
        raised to it.

    Raises:
        OptionError: no prompts, or a batch below 1.
    """
    if not prompts or batch_size < 1:
        raise OptionError("the dial needs at least one prompt and a batch of 1 or more")
    requests = expand(list(prompts), seed=range(seed, seed + len(prompts)), guidance_scale=guidance, **settings)
    batches = [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]
    schedule = pipeline.prepare(requests[0]).schedule
    cost = operations(pipeline.model, schedule, text_rows(pipeline.model, list(prompts)))
    done = 0

    def all_by(accelerator: str) -> tuple[Tensor, float]:
        nonlocal done
        pictures: list[Tensor] = []
        costs: list[int] = []
        for batch in batches:
            drawn = draw(pipeline, batch, accelerator)
            pictures.append(drawn.pictures)
            costs += map(cost, drawn.plans)
            done += len(batch)
            if progress is not None:
                progress(done)
        return torch.cat(pictures), fmean(costs)

    plain, full = all_by(PLAIN)
    points: list[DialPoint] = []
    for quality in sorted(qualities):
        pictures, spent = all_by(f"stagevar(quality={quality})")
        alike = ssim(pictures, plain).tolist()
        best = max(fmean(alike), points[-1].ssim if points else 0.0)
        points.append(DialPoint(quality, best, quantile(alike, LOW), full / spent))
    return tuple(points)
