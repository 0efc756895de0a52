"""The loop: one pass per scale, the same for every family and every plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.grids.noise import Uniforms, normals, uniforms
from stagevar.engine.loop.cohort import Cohort
from stagevar.engine.loop.forward import Output, Pass, Tap, begin, forward
from stagevar.engine.loop.sample import sample
from stagevar.engine.loop.trace import ScaleRecord
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import Signals, measure
from stagevar.errors import Cancelled, NumericError, OptionError

Revise = Callable[[int, Plan, int, Signals], Plan]
"""``(image, its plan, scale that ran, its signals)`` to the plan from the next scale on."""


@dataclass(frozen=True, slots=True)
class Step:
    """State after one scale: the latent (n, D, H, W) of all images in request order, what ran, and the plans as they
    stand."""

    scale: int
    latent: Tensor
    records: tuple[ScaleRecord, ...]
    plans: tuple[Plan, ...]


def run(
    model: ScaleModel,
    condition: Condition,
    schedule: Schedule,
    plans: Sequence[Plan],
    seeds: Sequence[int],
    *,
    revise: Revise | None = None,
    forced: Mapping[int, Tensor] | None = None,
    noise: Uniforms = uniforms,
    tap: Tap | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[Step]:
    """Generate n images, scale by scale.

    Args:
        model: supplies the pieces.
        condition: 2n rows, the prompts' rows first.
        schedule: grids of the scales.
        plans: one per image; images may differ in any field.
        seeds: one per image; the same seed gives the same noise in every plan and batch.
        revise: asked for an image's plan after every scale that ran; signals are measured only if it is given.
        forced: codes (n, M) or (n, M, d) per scale to take instead of drawn ones.
        noise: source of the random numbers; images of equal seeds get equal ones.
        tap: observer of intermediate tensors (rows of the cohort at hand).
        cancelled: asked before each scale.

    Yields:
        One ``Step`` per scale, skipped scales included.

    Raises:
        OptionError: a plan's length differs from the schedule's, or it wants a layer or a kind of sampling that the
            model does not have.
        NumericError: NaN or infinity in the logits.
        Cancelled: ``cancelled`` returned True.
    """
    n, plans = len(plans), list(plans)
    for plan in plans:
        _check(plan, model, schedule)
    if condition.rows != 2 * n or len(seeds) != n:
        raise ValueError(f"{n} plans need {n} seeds and {2 * n} condition rows, not {len(seeds)} and {condition.rows}")
    cohorts = [Cohort.start(model, condition, schedule, plans)]
    for k in range(len(schedule)):
        if cancelled is not None and cancelled():
            raise Cancelled(f"cancelled before scale {k + 1} of {len(schedule)}")
        records = []
        with torch.inference_mode():
            cohorts = [part for cohort in cohorts for part in cohort.split(k, model, schedule, plans)]
            for cohort in cohorts:
                codes = forced[k][list(cohort.images)] if forced is not None and k in forced else None
                work = begin(model, cohort, schedule, k, plans, seeds, revise is not None, noise, tap)
                record, signals = _advance(work, codes)
                records.append(record)
                for image, seen in zip(cohort.images, signals, strict=False):
                    if revise is not None:
                        plans[image] = _revised(revise(image, plans[image], k, seen), plans[image], k)
            latent = _gather(cohorts, n)
        yield Step(k, latent, tuple(records), tuple(plans))


def _check(plan: Plan, model: ScaleModel, schedule: Schedule) -> None:
    if len(plan) != len(schedule):
        raise OptionError(f"the plan has {len(plan)} scales but the schedule has {len(schedule)}")
    for scale in plan:
        layer = scale.guidance_layer
        if layer is not None and not -model.depth <= layer < model.depth:
            raise OptionError(f"guidance_layer {layer} is out of range; {model.name} has {model.depth} blocks")
        if scale.smooth is not None and not model.mixes_codes:
            raise OptionError(f"model {model.name} has no smoothed sampling; leave smooth out")


def _revised(plan: Plan, before: Plan, k: int) -> Plan:
    """The plan that an accelerator returned, if it keeps to what has happened."""
    if plan.scales[: k + 1] != before.scales[: k + 1]:
        raise OptionError(f"a revised plan differs at scale {k} or before, which has run")
    return plan


def _advance(work: Pass, codes: Tensor | None) -> tuple[ScaleRecord, list[Signals]]:
    """Run one scale for one cohort and add its codes to the latent."""
    began = time.perf_counter()
    signals: list[Signals] = []
    cohort, k, grid = work.cohort, work.scale, work.schedule[work.scale]
    cached, row_layers = cohort.cache.length(0), 0
    cohort.narrow(work.plan.branch)
    if work.plan.run != "skip":
        work.show("begin", cohort.latent)
        output = forward(work)
        work.show("logits", output.logits)
        row_layers = output.row_layers
        if not bool(torch.isfinite(output.logits).all()):
            raise NumericError(f"NaN or infinity in the logits of scale {k + 1}; run in float32, or check the weights")
        if codes is None:
            codes = _codes(work, output)
        elif output.index is not None:
            codes = torch.stack([each[at] for each, at in zip(codes, output.index, strict=True)])
        work.show("codes", codes)
        latent = work.model.add_codes(cohort.latent, codes, work.schedule, k, output.index)
        residual = _residual(work, output, codes)
        if residual is not None:
            work.show("residual", residual)
            latent = latent + residual
        cohort.latent, cohort.change = latent, latent - cohort.latent
        work.show("latent", cohort.latent)
        if work.measured:
            signals = measure(output.logits, output.flips, cohort.change, latent)
    if cohort.latent.is_cuda:
        torch.cuda.synchronize(cohort.latent.device)
    record = ScaleRecord(
        scale=k,
        grid=grid,
        images=cohort.images,
        run=work.plan.run,
        branch=cohort.branch,
        rows=round(row_layers / work.model.depth),
        cached=cached,
        milliseconds=(time.perf_counter() - began) * 1e3,
    )
    return record, signals


def _codes(work: Pass, output: Output) -> Tensor:
    """The codes of one scale, drawn by the model's own procedure if it has one there."""
    drawing = work.here, work.seeds, work.noise, output.index
    condition, schedule, k = work.cohort.condition, work.schedule, work.scale
    codes = work.model.draw(output.hidden, output.logits, condition, schedule, k, *drawing)
    if codes is None:
        tokens = schedule[k][0] * schedule[k][1]
        codes = sample(output.logits, work.here, work.seeds, k, tokens, output.index, work.noise)
    return codes


def _residual(work: Pass, output: Output, codes: Tensor) -> Tensor | None:
    """What the model adds behind its codes, with noise of its own."""
    grid, device = work.schedule[work.scale], output.hidden.device

    def noise(channels: int) -> Tensor:
        return normals(work.seeds, work.scale, grid[0] * grid[1], channels, output.index, device)

    guidance = [each.guidance for each in work.here]
    condition = work.cohort.condition
    return work.model.residual(
        output.hidden, codes, condition, work.schedule, work.scale, guidance, noise, output.index
    )


def _gather(cohorts: Sequence[Cohort], n: int) -> Tensor:
    """The latents of all cohorts in request order."""
    if len(cohorts) == 1:
        return cohorts[0].latent
    latent = cohorts[0].latent.new_empty(n, *cohorts[0].latent.shape[1:])
    for cohort in cohorts:
        latent[list(cohort.images)] = cohort.latent
    return latent
