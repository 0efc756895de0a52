"""Requests to batches to events: each request is read once, batches share passes, latents become pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stagevar.accelerators.base import Accelerator, Facts
from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.computing import computing
from stagevar.engine.grids.grid import Grid, Scale, Schedule, scales
from stagevar.engine.grids.rows import Branch
from stagevar.engine.loop.call import Tap
from stagevar.engine.loop.run import Revise, run
from stagevar.engine.loop.trace import Trace
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import CHANGING, SETTLED, Signals
from stagevar.errors import Cancelled, NumericError, OptionError, StagevarError, first_line, quoted
from stagevar.machine import machine
from stagevar.registry import parse
from stagevar.request import EncodedPrompt, Request
from stagevar.result import OutputType, Result, ScaleEvent
from stagevar.sizes import native_size


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as a model draws it.

    Attributes:
        request: what was asked for.
        size: height and width in pixels of the picture.
        schedule: grids of its scales.
        accelerator: the request's own, or the pipeline's.
        plan: what runs at each scale, before the accelerator revises it.
    """

    request: Request
    size: Grid
    schedule: Schedule
    accelerator: Accelerator
    plan: Plan

    @property
    def settings(self) -> dict[str, Any]:
        """What repeats the picture, as plain data; None means the model's own default."""
        request = self.request
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "height": self.size[0],
            "width": self.size[1],
            "guidance_scale": request.guidance_scale,
            "temperature": request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
            "smooth": request.smooth,
            "accelerator": str(self.accelerator),
            "plan": None if request.plan is None else str(request.plan),
        }


def prepare(model: ScaleModel, request: Request, accelerator: str | Accelerator = "none") -> Prepared:
    """Read a request: size, schedule, accelerator and plan.

    Args:
        model: may be on the meta device; its weights are not used.
        request: one picture.
        accelerator: used if the request names none.

    Raises:
        SizeError: the request is strict about a size that the model does not draw.
        OptionError: an accelerator or a plan that cannot run on the model.
    """
    size = native_size(model, request)
    schedule = model.schedule(*size)
    chosen = parse(accelerator if request.accelerator is None else request.accelerator)
    start = (
        _checked(request.plan, len(schedule), "the request") if request.plan else plain_plan(model, schedule, request)
    )
    facts = Facts(depth=model.depth, groups=model.groups, causal=model.causal)
    with _named(str(chosen)):
        planned = chosen.plan(start, schedule, facts)
    plan = _checked(planned, len(schedule), str(chosen))
    for signals in (CHANGING, SETTLED):
        _rehearse(chosen, plan, schedule, signals)
    return Prepared(request, size, schedule, chosen, plan)


def plain_plan(model: ScaleModel, schedule: Schedule, request: Request) -> Plan:
    """The plan without an accelerator: the request's settings, and the model's defaults for those left open."""
    defaults = model.defaults
    guidance = defaults.guidance if request.guidance_scale is None else request.guidance_scale
    branch: tuple[Branch, ...] | Branch = "both"
    if not isinstance(guidance, tuple):
        guidance, branch = model.guidance_schedule(guidance, schedule), model.branches(schedule)
    smooth = defaults.smooth if request.smooth is None else request.smooth
    plan = Plan.uniform(
        len(schedule),
        branch=branch,
        guidance=guidance,
        temperature=defaults.temperature if request.temperature is None else request.temperature,
        top_k=defaults.top_k if request.top_k is None else request.top_k,
        top_p=defaults.top_p if request.top_p is None else request.top_p,
        smooth=model.smooth_schedule(schedule) if smooth else None,
    )
    if model.mixes_unlikely:
        mixed = [k for k, scale in enumerate(plan) if scale.smooth is not None and scale.top_k != 1]
        plan = plan.replace(mixed, top_k=0, top_p=1.0)
    return plan


def _checked(plan: Plan, length: int, who: str) -> Plan:
    """The plan that a user or an accelerator gave.

    Raises:
        OptionError: it is no plan, or one for another number of scales.
    """
    if not isinstance(plan, Plan):
        raise OptionError(f"{who} gave a {type(plan).__name__} where a stagevar.Plan belongs")
    if len(plan) != length:
        raise OptionError(f"{who} gave a plan of {len(plan)} scales for a schedule of {length}")
    return plan


@contextmanager
def _named(accelerator: str) -> Iterator[None]:
    """Errors of code that others wrote, as one that names the accelerator.

    Raises:
        OptionError
    """
    try:
        yield
    except Cancelled:
        raise
    except StagevarError as error:
        raise OptionError(str(error) if accelerator in str(error) else f"{accelerator}: {error}") from error
    except Exception as error:
        raise OptionError(f"{accelerator} failed: {type(error).__name__}: {first_line(error)}") from error


def _revised(accelerator: Accelerator, plan: Plan, at: Scale, signals: Signals) -> Plan:
    """The accelerator's answer after a scale; its errors name it."""
    with _named(f"{accelerator}, after scale {at.k}"):
        answer = accelerator.revise(plan, at, signals)
    _checked(answer, len(plan), str(accelerator))
    if answer.scales[: at.k + 1] != plan.scales[: at.k + 1]:
        raise OptionError(f"{accelerator} revised scale {at.k} or one before it, which has run")
    return answer


def _rehearse(accelerator: Accelerator, plan: Plan, schedule: Schedule, signals: Signals) -> None:
    """Ask an online accelerator about a picture of the same signals at every scale, so that a sum whose plans cannot
    run is found before anything is drawn."""
    for at in scales(schedule) if accelerator.online else ():
        if plan[at.k].run != "skip":
            seen = signals if plan[at.k].branch == "both" else replace(signals, flips=None)
            plan = _revised(accelerator, plan, at, seen)


def batches(prepared: Sequence[Prepared], size: int) -> list[tuple[int, ...]]:
    """Positions of the requests that share passes: those of one schedule, at most ``size`` of them."""
    alike: dict[Schedule, list[int]] = {}
    for i, each in enumerate(prepared):
        alike.setdefault(each.schedule, []).append(i)
    return [tuple(found[i : i + size]) for found in alike.values() for i in range(0, len(found), size)]


def encode(model: ScaleModel, prompts: Sequence[str]) -> list[EncodedPrompt]:
    """Read prompts once.

    Raises:
        PromptError, MissingFileError
    """
    with computing():
        text = model.encode_text(prompts)
    return [EncodedPrompt(prompt, model.family, text.one(i)) for i, prompt in enumerate(prompts)]


def read_prompts(model: ScaleModel, requests: Sequence[Request], at_once: int) -> list[Request]:
    """The requests with the states of their prompts; equal texts are read once.

    Args:
        model: with its text encoder.
        requests: whose prompts may have been read already.
        at_once: texts per call of the text encoder.

    Raises:
        OptionError: a prompt was encoded for another family.
        PromptError, MissingFileError
    """
    unread: dict[str, None] = {}
    for request in requests:
        for text, encoded in ((request.prompt, request.encoded), (request.negative_prompt, request.negative_encoded)):
            if encoded is not None and encoded.family != model.family:
                what = f"prompt {quoted(encoded.prompt)} was encoded for {encoded.family}"
                raise OptionError(f"{what}, not for {model.family}")
            if text and encoded is None:
                unread[text] = None
    texts, read = list(unread), dict[str, EncodedPrompt]()
    for start in range(0, len(texts), at_once):
        read |= {each.prompt: each for each in encode(model, texts[start : start + at_once])}
    return [
        replace(
            each,
            encoded=each.encoded or read[each.prompt],
            negative_encoded=each.negative_encoded or read.get(each.negative_prompt or ""),
        )
        for each in requests
    ]


def condition(model: ScaleModel, requests: Sequence[Request]) -> Condition:
    """The condition of one batch from its prompts and negative prompts: 2n rows, the prompts' first."""
    read = read_prompts(model, requests, len(requests))
    text = Text.joined([each.encoded.states for each in read if each.encoded])
    negative = {i: each.negative_encoded.states for i, each in enumerate(read) if each.negative_encoded}
    if not negative:
        return model.condition(text)
    return model.condition(text, Text.joined(list(negative.values())).spread(list(negative), len(read)))


def draw(
    model: ScaleModel,
    prepared: Sequence[Prepared],
    *,
    batch_size: int,
    output_type: OutputType,
    origin: Mapping[str, Any],
    cancelled: Callable[[], bool] | None = None,
    tap: Tap | None = None,
) -> Iterator[ScaleEvent]:
    """Draw requests batch by batch. All prompts are read before the first scale runs.

    Args:
        model: with its weights.
        prepared: what to draw.
        batch_size: pictures per pass.
        output_type: form of the result's images.
        origin: source and revision of the model, for the trace.
        cancelled: asked before every scale.
        tap: observer of the tensors of every pass.
    """
    images: dict[int, Any] = {}
    trace = Trace(model.name, machine(model), dict(origin), [each.settings for each in prepared])
    began = time.perf_counter()
    requests = read_prompts(model, [each.request for each in prepared], batch_size)
    trace.text_milliseconds = (time.perf_counter() - began) * 1e3
    for indices in batches(prepared, batch_size):
        batch, began = [prepared[i] for i in indices], time.perf_counter()
        with computing():
            given = condition(model, [requests[i] for i in indices])
        trace.text_milliseconds += (time.perf_counter() - began) * 1e3
        schedule, plans = batch[0].schedule, [each.plan for each in batch]
        seeds, revise = [each.request.seed for each in batch], _revise([each.accelerator for each in batch])
        for step in run(model, given, schedule, plans, seeds, revise=revise, cancelled=cancelled, tap=tap):
            for record in step.records:
                trace.records.append(replace(record, images=tuple(indices[i] for i in record.images)))
            if step.scale == len(schedule) - 1:
                began = time.perf_counter()
                images.update(zip(indices, outputs(model, step.latent, output_type), strict=True))
                trace.decode_milliseconds += (time.perf_counter() - began) * 1e3
            complete = len(images) == len(prepared)
            yield ScaleEvent(
                scale=step.scale,
                scales=len(schedule),
                grid=schedule[step.scale],
                images=indices,
                milliseconds=sum(record.milliseconds for record in step.records),
                latent=step.latent.clone(),
                plans=step.plans,
                result=_result(prepared, images, trace) if complete else None,
                decode=partial(outputs, model, output_type="pil"),
            )


def _revise(accelerators: Sequence[Accelerator]) -> Revise | None:
    """The loop's question to each image's accelerator, None if none of them decides online."""
    if not any(accelerator.online for accelerator in accelerators):
        return None
    return lambda image, plan, at, signals: _revised(accelerators[image], plan, at, signals)


def outputs(model: ScaleModel, latent_nDHW: Tensor, output_type: OutputType) -> list[Any]:
    """The pictures of latents, as ordinary tensors, arrays or images.

    Raises:
        NumericError: NaN or infinity in the pictures.
    """
    if output_type == "latent":
        return list(latent_nDHW.clone())
    with computing():
        pictures = model.decode(latent_nDHW).float().cpu()
    if not bool(torch.isfinite(pictures).all()):
        raise NumericError("NaN or infinity in the decoded pictures; check the weights of the tokenizer")
    if output_type == "pt":
        return list(pictures.clone())
    if output_type == "np":
        return [picture.permute(1, 2, 0).numpy() for picture in pictures]
    return [to_pil(picture) for picture in pictures]


def to_pil(picture: Tensor) -> Image.Image:
    """(3, height, width) in [0, 1] to an RGB image, rounded to 8 bits."""
    pixels = (picture.float() * 255).round().clamp(0, 255).byte()
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))


def _result(prepared: Sequence[Prepared], images: Mapping[int, Any], trace: Trace) -> Result:
    return Result(
        images=[images[i] for i in range(len(prepared))],
        prompts=tuple(each.request.prompt for each in prepared),
        seeds=trace.seeds,
        sizes=tuple(each.size for each in prepared),
        trace=trace,
    )
