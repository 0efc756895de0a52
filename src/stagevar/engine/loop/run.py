"""The loop: one pass per scale, the same for every family and every plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.computing import computing
from stagevar.engine.grids.grid import Scale, Schedule, scales
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.noise import Uniforms, uniforms
from stagevar.engine.grids.rows import token_map
from stagevar.engine.loop.attention import fastest_attention
from stagevar.engine.loop.call import Call, Output, Tap
from stagevar.engine.loop.cohort import Cohort
from stagevar.engine.loop.foreign import named
from stagevar.engine.loop.forward import forward
from stagevar.engine.loop.graphs import Graphs
from stagevar.engine.loop.known import Codes, Known, filled
from stagevar.engine.loop.sample import sample
from stagevar.engine.loop.scale_pass import Pass
from stagevar.engine.loop.trace import ScaleRecord
from stagevar.engine.loop.watching import numbers
from stagevar.engine.plan.parts import rule_at
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import SIGNALS, Signal, Signals, readings, told
from stagevar.engine.plan.watch import AttentionEntropy
from stagevar.errors import Cancelled, NumericError, OptionError

Revise = Callable[[int, Plan, Scale, Signals], Plan]
"""``(image, its plan, the scale that ran, its signals)`` to the plan from the next scale on. Of scales that share a
pass only the last is asked about."""


@dataclass(frozen=True, slots=True)
class Step:
    """State after one scale.

    Attributes:
        scale: index of the scale.
        images: those of the call that are still drawn, in request order.
        latent: (n, D, H, W) of these.
        codes: int64 (n, M) or (n, M, d) of these, -1 at positions that have got none.
        records: what ran.
        plans: of all images of the call, as they stand.
    """

    scale: int
    images: tuple[int, ...]
    latent: Tensor
    codes: Tensor
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
    signals: frozenset[Signal] = SIGNALS,
    forced: Mapping[int, Tensor] | None = None,
    noise: Uniforms = uniforms,
    tap: Tap | None = None,
    cancelled: Callable[[], bool] | None = None,
    wanted: Callable[[int], bool] | None = None,
    graphs: Graphs | None = None,
) -> Iterator[Step]:
    """Generate n images, scale by scale.

    Args:
        model: supplies the pieces.
        condition: 2n rows, the prompts' rows first.
        schedule: grids of the scales.
        plans: one per image; images may differ in any field.
        seeds: one per image; the same seed gives the same noise in every plan and batch.
        revise: asked for an image's plan after every pass.
        signals: what it is told of the image, besides what its plan watches; nothing else is measured.
        forced: codes (n, M) or (n, M, d) per scale to take instead of drawn ones; those that are -1 are drawn. They
            count wherever rows did not run too, even at a skipped scale.
        noise: source of the random numbers; images of equal seeds get equal ones.
        tap: observer of intermediate tensors (rows of the cohort at hand).
        cancelled: asked before each scale.
        wanted: asked of every image before each pass; one that is not wanted is drawn no further, and its rows are
            freed at once.
        graphs: captured scales, where the device has such.

    Yields:
        One ``Step`` per scale, skipped scales included.

    Raises:
        OptionError: see ``check``.
        NumericError: NaN or infinity in the logits.
        Cancelled: ``cancelled`` returned True.
    """
    n, wanted, asked = len(plans), wanted or (lambda image: True), frozenset[Signal]() if revise is None else signals
    call = Call(model, schedule, seeds, list(plans), revise is not None, asked, noise, tap, wanted, lambda work: None)
    for plan in plans:
        check(plan, model, schedule)
    if condition.rows != 2 * n or len(seeds) != n:
        raise ValueError(f"{n} plans need {n} seeds and {2 * n} condition rows, not {len(seeds)} and {condition.rows}")
    with nullcontext() if graphs is None else graphs.lent(call, condition) as replays:
        with computing(), fastest_attention(model):
            if replays is not None:
                call = replace(call, replay=replays.replay)
            cohorts = [Cohort.start(call, condition) if replays is None else replays.start(call, condition)]
        yield from _scales(call, cohorts, revise, forced or {}, cancelled)


def _scales(
    call: Call,
    cohorts: list[Cohort],
    revise: Revise | None,
    forced: Mapping[int, Tensor],
    cancelled: Callable[[], bool] | None,
) -> Iterator[Step]:
    """All scales of a call, in order."""
    before: dict[int, Signals] = {}
    for at in scales(call.schedule):
        if cancelled is not None and cancelled():
            raise Cancelled(f"cancelled before scale {at.k} of {len(call.schedule)}")
        records, began = [], time.perf_counter()
        with computing(), fastest_attention(call.model):
            cohorts = [part for cohort in cohorts for part in cohort.split(call, at.k)]
            for cohort in cohorts:
                given = forced[at.k][list(cohort.images)] if at.k in forced else None
                known = None if given is None else Known.of(given, cohort.latent.device)
                work = Pass(call, cohort, at.k)
                with named(work):
                    record, signals = _advance(work, known)
                if revise is not None:
                    for image, signal in zip(cohort.images, signals, strict=False):
                        before[image] = replace(signal, before=before.get(image))
                        answer = revise(image, call.plans[image], at, before[image])
                        call.plans[image] = _revised(answer, call, image, at.k)
                ended = time.perf_counter()
                records.append(replace(record, milliseconds=(ended - began) * 1e3))
                began = ended
            images, latent, codes = _gather(call, cohorts, at)
        yield Step(at.k, images, latent, codes, tuple(records), tuple(call.plans))


def check(plan: Plan, model: ScaleModel, schedule: Schedule) -> None:
    """Check what depends on the model.

    Raises:
        OptionError: the plan's length differs from the schedule's, or it wants a layer or a kind of sampling that the
            model does not have, or watches rows that do not run.
    """
    if len(plan) != len(schedule):
        raise OptionError(f"the plan has {len(plan)} scales but the schedule has {len(schedule)}")
    for scale in plan:
        layer = scale.guidance_layer
        if layer is not None and not -model.depth <= layer < model.depth:
            raise OptionError(f"guidance_layer {layer} is out of range; {model.name} has {model.depth} blocks")
        if scale.correct is not None and not model.shared_codes:
            raise OptionError(f"model {model.name} has codes of its own at each scale; leave correct out")
        if scale.smooth is not None and not model.mixes_codes:
            raise OptionError(f"model {model.name} has no smoothed sampling; leave smooth out")
        for watch in scale.watch if scale.parts else ():
            if isinstance(watch, AttentionEntropy):
                rule = rule_at(scale.parts, watch.layer(model.depth), "attention", model.depth)
                if rule is not None and rule.prune > 0:
                    raise OptionError(f"{watch} watches a block in which fewer rows attend; watch an earlier scale")


def _revised(plan: Plan, call: Call, image: int, k: int) -> Plan:
    """The plan that an accelerator returned, if it keeps to what has happened."""
    before = call.plans[image]
    if plan.scales[: k + 1] != before.scales[: k + 1] or plan.pass_of(k) != before.pass_of(k):
        raise OptionError(f"a revised plan differs at scale {k} or before, which has run")
    if plan is not before:
        check(plan, call.model, call.schedule)
    return plan


def _advance(work: Pass, known: Known | None) -> tuple[ScaleRecord, list[Signals]]:
    """Run one scale for one cohort and add its codes to the latent; the record's time is for the caller to fill in."""
    model, cohort = work.call.model, work.cohort
    cached, processed, signals = cohort.cache.mean_length, 0, list[Signals]()
    cohort.narrow(work.plan.branch)
    if work.plan.run != "skip":
        if work.k == work.members[0]:
            cohort.outputs = forward([Pass(work.call, cohort, k) for k in work.members])
        output = cohort.outputs.pop(work.k)
        work.show("logits", output.logits)
        cached, processed = output.cached, output.processed
        latent = _added(work, output, known)
        cohort.latent, cohort.change = latent, latent - cohort.latent
        work.show("latent", cohort.latent)
        signals = _read(work, output)
    else:
        _kept(work, known)
    record = ScaleRecord(
        scale=work.k,
        grid=work.at.grid,
        images=cohort.images,
        run=work.plan.run,
        branch=cohort.branch,
        rows=round(processed / (model.depth * len(model.layers[0].parts))),
        cached=cached,
        milliseconds=0.0,
        group=work.members if len(work.members) > 1 else (),
    )
    return record, signals


def _read(work: Pass, output: Output) -> list[Signals]:
    """The signals that accelerators decide by, if any; they decide after a whole pass. The host reads the device here
    and nowhere else in a pass: it waits until the pass is done, so that its clock has the time of the device."""
    cohort, read = work.cohort, [torch.isfinite(output.logits.sum()).float()[None]]
    watched = list(numbers(work.call.model, work.at, work.plan.watch, output.maps, cohort.latent, cohort.change))
    if work.call.revised and work.whole.ends_pass(work.k):
        usual = readings(work.call.signals, output.logits, output.flips, cohort.change, cohort.latent)
        read += torch.cat([usual, *watched], 1)
    found = torch.cat(read).cpu().split([len(each) for each in read])
    (sound,), *signals = (each.tolist() for each in found)
    if not sound:
        raise NumericError(f"NaN or infinity in the logits of scale {work.k}; run in float32, or check the weights")
    return told(signals, work.plan.watch)


def _added(work: Pass, output: Output, known: Known | None) -> Tensor:
    """The latent with the codes of a scale: given ones, and drawn ones by the model's own procedure if it has one at
    this scale, else by ``sample``. A continuous residual belongs to drawn codes alone."""
    model, cohort, index = work.call.model, work.cohort, output.index
    given = None if known is None else known.at(index)
    drawing = work.drawing(index, given)
    if known is not None and known.whole:
        values = known.at(index)
    else:
        drawn = model.draw(output.hidden, output.logits, drawing)
        values = sample(output.logits, drawing) if drawn is None else drawn
        values = values if given is None else filled(values, given)
    work.show("codes", values)
    gain = output.gain
    codes = Codes(values, index, gain if gain is None or index is None else gain.gather(1, index))
    codes = codes if known is None else known.completed(codes)
    cohort.codes = codes.spread(work.at.tokens)
    latent = model.add_codes(cohort.latent, codes.values, work.call.schedule, work.k, codes.index, codes.gain)
    residual = None if known is not None and known.whole else model.residual(output.hidden, values, drawing)
    if residual is None:
        return latent
    weight = gain if known is None else (~known.fixed).float() * (1.0 if gain is None else gain)
    if weight is not None:
        shape = (residual.shape[-2], residual.shape[-1])
        residual = residual * resize(token_map(weight[..., None], work.at.grid), shape, "bilinear")
    work.show("residual", residual)
    return latent + residual


def _kept(work: Pass, known: Known | None) -> None:
    """A scale that does not run: the given codes are added all the same."""
    model, cohort = work.call.model, work.cohort
    if known is None:
        cohort.codes = model.no_codes(len(cohort.images), work.at)
        return
    codes = known.alone
    cohort.codes = codes.spread(work.at.tokens)
    cohort.latent = model.add_codes(cohort.latent, codes.values, work.call.schedule, work.k, None, codes.gain)


def _gather(call: Call, cohorts: Sequence[Cohort], at: Scale) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """The images of all cohorts in request order, their latents and their codes."""
    if len(cohorts) == 1:
        return cohorts[0].images, cohorts[0].latent, cohorts[0].codes
    found = {image: (cohort, row) for cohort in cohorts for row, image in enumerate(cohort.images)}
    images = tuple(sorted(found))
    if not images:
        return (), call.model.empty_latent(0, call.schedule), call.model.no_codes(0, at)
    placed = [found[image] for image in images]
    latents = torch.stack([cohort.latent[row] for cohort, row in placed])
    return images, latents, torch.stack([cohort.codes[row] for cohort, row in placed])
