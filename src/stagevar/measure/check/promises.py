"""The promises of an accelerator. Each function tries one on one family, and raises ``Broken`` if it does not hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stagevar.accelerators.base import AXES, Accelerator, Nothing
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Grid, Scale, Schedule
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.families.tiny import tiny
from stagevar.families.tokenizers.vq import VQTokenizer
from stagevar.listing import partners
from stagevar.measure.check.subject import PICTURES, Drawn, Subject
from stagevar.measure.predict.flops import SOLVING, plan_flops
from stagevar.memory.predict import Ledger, run_bytes
from stagevar.registry import parse

NOISE, FLOPS, BYTES = 1e-3, 0.02, 0.1
"""What pictures, operations and bytes may differ by, relative to their largest value, their sum and the run's peak."""


LOOKS = frozenset({"stage", "watch", "remember"})
"""Axes that change no picture; whoever looks or labels need not own them."""


class Broken(Exception):
    """A promise does not hold; the message says what was found."""


class NoSuch(Exception):
    """There is nothing to try: the accelerator makes no such promise."""


def text(subject: Subject) -> None:
    """Its text is read back as the same accelerator."""
    own = subject.accelerator
    again = parse(str(own), subject.classes)
    if again != own or hash(again) != hash(own):
        raise Broken(f"{own} is read back as {again}")


def sizes(subject: Subject) -> None:
    """Square, tall and wide pictures are drawn, and the trace tells what the plans said."""
    for size in subject.sizes.values():
        _told(subject, subject.draw([0], size), size)


def owned(subject: Subject) -> None:
    """It decides the axes that it owns and no others, so that those of a sum do not undo one another. Both branches at
    a guidance of 1 or 0 draw what one of them does, and scales of a pass need the same ones."""
    plain = subject.pipe.prepare(subject.request(0, subject.size, Nothing())).plan
    for plan in subject.drawn.plans:
        for own, usual in zip(plan, plain, strict=True):
            decided = {axis for axis in AXES if getattr(own, axis) != getattr(usual, axis)}
            if own.branch == "both" and own.guidance == {"cond": 1.0, "null": 0.0}.get(usual.branch):
                decided -= {"branch", "guidance"}
            if strange := sorted(decided - subject.accelerator.owns - LOOKS):
                raise Broken(f"it decides {', '.join(strange)}, which it does not own; add it to owns")


def alone(subject: Subject) -> None:
    """Every picture of a batch is the one that it is alone, and so is its plan."""
    for name, size in subject.sizes.items():
        together = subject.draw(range(PICTURES), size)
        for i in range(PICTURES):
            single = subject.draw([i], size)
            if single.plans[0] != together.plans[i]:
                raise Broken(f"{name}: picture {i} of {PICTURES} has another plan than alone")
            _same(f"{name}: picture {i} of {PICTURES} and alone", together.latents[i], single.latents[0])


def identity(subject: Subject) -> None:
    """Its identity settings give the bits of the plain run."""
    settings = type(subject.accelerator).identity
    if settings is None:
        raise NoSuch
    own = type(subject.accelerator)(**settings)
    same = subject.draw(range(PICTURES), subject.size, own).latents
    if not all(torch.equal(a, b) for a, b in zip(same, subject.plain, strict=True)):
        raise Broken(f"{own} draws other bits than the plain run")


def operations(subject: Subject) -> None:
    """Operations predicted from shapes are those that PyTorch counts."""
    [plan, *_], model = subject.drawn.plans, tiny(subject.family)
    if isinstance(model.tokenizer, VQTokenizer):
        model.tokenizer.refine = lambda x, *_: x  # type: ignore[method-assign]  # convolutions are not counted
    schedule, condition = model.schedule(*subject.size), model.condition(model.encode_text(model.samples[:1]))
    length = condition.text_kv[0][0].shape[2] if condition.text_kv else 0
    with FlopCounterMode(display=False, custom_mapping=SOLVING) as counter, sdpa_kernel(SDPBackend.MATH):
        list(run(model, condition, schedule, [plan], [0]))
    found, told = counter.get_total_flops(), sum(row.total for row in plan_flops(model, schedule, plan, length))
    if abs(told - found) > FLOPS * found:
        raise Broken(f"{told} operations are predicted, PyTorch counts {found}")


def ledger(subject: Subject) -> None:
    """Memory predicted without data is what a run with data takes."""
    [plan, *_], model = subject.drawn.plans, tiny(subject.family)
    schedule, encoded = model.schedule(*subject.size), model.encode_text(model.samples[:1])
    predicted = run_bytes(model, schedule, plan, 1, text_length=max(map(len, encoded.features)))
    found = _peaks(model, schedule, plan)
    for scale, peak in zip(predicted.scales, found, strict=True):
        if abs(scale.peak - peak) > BYTES * max(found):
            raise Broken(f"scale {scale.scale} is predicted to take {scale.peak} bytes, it takes {peak}")


def sums(subject: Subject) -> None:
    """With every accelerator that it combines with, pictures of a batch are those that they are alone, or the sum is
    refused before anything is drawn."""
    others = _partners(subject)
    if not others:
        raise NoSuch
    for other in others:
        both = subject.accelerator + other
        if subject.refusal(both):
            continue
        together = subject.draw([0, 1], subject.size, both)
        _told(subject, together, subject.size)
        for i in (0, 1):
            _same(f"{both}, picture {i}", together.latents[i], subject.draw([i], subject.size, both).latents[0])


PROMISES: Mapping[str, Callable[[Subject], None]] = {
    "text": text,
    "sizes": sizes,
    "owns": owned,
    "batch": alone,
    "identity": identity,
    "operations": operations,
    "ledger": ledger,
    "sums": sums,
}
"""By the name of their row, in the order in which they are tried."""


def _partners(subject: Subject) -> list[Accelerator]:
    """The others that it combines with, at their defaults, as far as they have some."""
    names = partners(subject.accelerator.owns, subject.classes)
    needs = {
        name: [f for f in fields(subject.classes[name]) if f.default is f.default_factory is MISSING] for name in names
    }
    return [subject.classes[name]() for name in names if not needs[name]]


def _told(subject: Subject, drawn: Drawn, size: Grid) -> None:
    """Latents are finite, and the trace tells the scales, branches and rows that the plans say."""
    schedule = subject.model.schedule(*size)
    for i, (latent, plan) in enumerate(zip(drawn.latents, drawn.plans, strict=True)):
        if not bool(torch.isfinite(latent).all()):
            raise Broken(f"the latent at {size} holds NaN or infinity")
        records = [record for record in drawn.trace.records if i in record.images]
        if [record.scale for record in records] != list(range(len(plan))):
            raise Broken(f"the trace at {size} has scales {[record.scale for record in records]}")
        for record in records:
            here, branches = plan[record.scale], 2 if record.branch == "both" else 1
            dense = len(record.images) * branches * subject.model.rows(Scale(schedule, record.scale))
            if (record.run, record.branch) != (here.run, here.branch):
                raise Broken(f"scale {record.scale} at {size} ran {record.run}, {record.branch}, unlike its plan")
            if record.rows > dense or (record.rows > 0) > (here.run == "full"):
                raise Broken(f"scale {record.scale} at {size} processed {record.rows} of {dense} rows")


def _same(what: str, found: Tensor, want: Tensor) -> None:
    """Raises unless two latents agree to rounding."""
    apart = float((found - want).abs().max() / want.abs().max().clamp(min=1e-9))
    if apart > NOISE:
        raise Broken(f"{what} differ by {apart:.1e} of the largest value")


def _peaks(model: ScaleModel, schedule: Schedule, plan: Plan) -> Sequence[int]:
    """Most bytes that are alive at once at each scale of a run with data."""
    counted, peaks = Ledger(), list[int]()
    encoded = model.encode_text(model.samples[:1])
    with counted, torch.inference_mode():
        condition: Any = model.condition(encoded)
        counted.lap()
        for _ in run(model, condition, schedule, [plan], [0]):
            peaks.append(counted.lap())
    return peaks
