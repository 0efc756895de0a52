"""Requests to batches to events: each request is read once, batches share passes, latents become pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stagevar.accelerators.base import Accelerator
from stagevar.editing.given import Codes, as_map, kept, read_codes, stacked
from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.computing import computing
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.grids.sent import fetched
from stagevar.engine.loop.call import Tap
from stagevar.engine.loop.graphs import Graphs
from stagevar.engine.loop.run import Revise, run
from stagevar.engine.loop.trace import Trace
from stagevar.engine.plan.signals import Signal
from stagevar.errors import NumericError, OptionError, quoted
from stagevar.machine import machine
from stagevar.prepared import Prepared, revised
from stagevar.request import EncodedPrompt, Request
from stagevar.result import OUTPUT_TYPES, OutputType, Result, ScaleEvent


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
    if any(not request.prompt for request in requests):
        nothing = EncodedPrompt("", model.family, model.blank_text(1))
        requests = [each if each.prompt else replace(each, encoded=nothing) for each in requests]
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
    wanted: Callable[[int], bool] | None = None,
    tap: Tap | None = None,
    graphs: Graphs | None = None,
) -> Iterator[ScaleEvent]:
    """Draw requests batch by batch. All prompts are read before the first scale runs.

    Args:
        model: with its weights.
        prepared: what to draw.
        batch_size: pictures per pass.
        output_type: form of the result's images.
        origin: source and revision of the model, for the trace.
        cancelled: asked before every scale.
        wanted: asked of every picture before every scale of its batch; one that is not is drawn no further.
        tap: observer of the tensors of every pass.
        graphs: captured scales of the model.
    """
    images, codes = dict[int, Any](), dict[int, Codes]()
    trace = Trace(model.name, machine(model), dict(origin), [each.settings for each in prepared])
    began = time.perf_counter()
    with computing():
        requests = read_prompts(model, [each.request for each in prepared], batch_size)
    trace.text_milliseconds = (time.perf_counter() - began) * 1e3
    for indices in batches(prepared, batch_size):
        batch, began = [prepared[i] for i in indices], time.perf_counter()
        with computing():
            given = _seen(model, batch, condition(model, [requests[i] for i in indices]))
            forced = stacked(model, _given_codes(model, batch), batch[0].schedule)
        trace.text_milliseconds += (time.perf_counter() - began) * 1e3
        schedule, plans = batch[0].schedule, [each.plan for each in batch]
        seeds, revise = [each.request.seed for each in batch], _revise([each.accelerator for each in batch])
        signals = frozenset[Signal]().union(*(each.accelerator.signals for each in batch if each.accelerator.online))
        options: dict[str, Any] = {
            "revise": revise,
            "signals": signals,
            "cancelled": cancelled,
            "tap": tap,
            "graphs": graphs,
        }
        if wanted is not None:
            options["wanted"] = partial(_asked, wanted, indices)
        for step in run(model, given, schedule, plans, seeds, forced=forced, **options):
            here = tuple(indices[i] for i in step.images)
            for image, found in zip(here, step.codes, strict=True):
                codes[image] = (*codes.get(image, ()), found)
            for record in step.records:
                trace.records.append(replace(record, images=tuple(indices[i] for i in record.images)))
            if step.scale == len(schedule) - 1:
                began = time.perf_counter()
                images.update(dict.fromkeys(indices))
                images.update(zip(here, outputs(model, step.latent, output_type), strict=True))
                trace.decode_milliseconds += (time.perf_counter() - began) * 1e3
            complete = len(images) == len(prepared)
            yield ScaleEvent(
                scale=step.scale,
                scales=len(schedule),
                grid=schedule[step.scale],
                images=here,
                milliseconds=sum(record.milliseconds for record in step.records),
                latent=step.latent.clone(),
                plans=tuple(step.plans[i] for i in step.images),
                result=_result(prepared, images, codes, trace) if complete else None,
                decode=partial(previews, model),
            )


def _seen(model: ScaleModel, batch: Sequence[Prepared], given: Condition) -> Condition:
    """The condition of a batch with the pictures that it begins with; of a batch without any as it is."""
    if all(each.fitted is None for each in batch):
        return given
    none = torch.zeros(3, *model.picture_size(batch[0].schedule))
    pictures = [none if each.fitted is None else each.fitted.picture for each in batch]
    return model.seeing(given, torch.stack(pictures).to(model.device))


def _given_codes(model: ScaleModel, batch: Sequence[Prepared]) -> list[Sequence[Tensor | None] | None]:
    """The codes that each picture of a batch begins with; an edit of several pictures is read once."""
    read: dict[int, Codes] = {}
    found: list[Sequence[Tensor | None] | None] = []
    for each in batch:
        if each.fitted is None or each.free is None:
            found.append(each.request.forced)
            continue
        key = id(each.request.edit)
        if key not in read:
            read[key] = kept(read_codes(model, each.fitted.picture, each.schedule), each.free)
        found.append(read[key])
    return found


def _asked(wanted: Callable[[int], bool], indices: Sequence[int], image: int) -> bool:
    """Whether the picture that is ``image`` of a batch is still wanted."""
    return wanted(indices[image])


def _revise(accelerators: Sequence[Accelerator]) -> Revise | None:
    """The loop's question to each image's accelerator, None if none of them decides online."""
    if not any(accelerator.online for accelerator in accelerators):
        return None
    return lambda image, plan, at, signals: revised(accelerators[image], plan, at, signals)


def check_output(output_type: object) -> None:
    """Raise unless it is a form that pictures can have.

    Raises:
        OptionError
    """
    if output_type not in OUTPUT_TYPES:
        raise OptionError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {quoted(output_type)}")


def outputs(model: ScaleModel, latent_nDHW: Tensor, output_type: OutputType) -> list[Any]:
    """The pictures of latents, as ordinary tensors, arrays or images.

    Raises:
        NumericError: NaN or infinity in the pictures.
    """
    if output_type == "latent" or not len(latent_nDHW):
        return list(latent_nDHW.clone())
    with computing():
        pictures = model.decode(latent_nDHW).float().cpu()
    return _converted(pictures, output_type)


def previews(model: ScaleModel, latent_nDHW: Tensor) -> Callable[[], list[Image.Image]]:
    """Start to decode latents; a call of what is returned waits for the pictures.

    Raises:
        NumericError: NaN or infinity in the pictures.
    """
    with computing():
        wait = fetched(lambda latent: model.decode(latent).float(), latent_nDHW)
    return lambda: _converted(wait(), "pil")


def _converted(pictures: Tensor, output_type: OutputType) -> list[Any]:
    """Pictures of the host (n, 3, height, width) as tensors, arrays or images."""
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


def _result(
    prepared: Sequence[Prepared], images: Mapping[int, Any], codes: Mapping[int, Codes], trace: Trace
) -> Result:
    return Result(
        images=[images[i] for i in range(len(prepared))],
        codes=[
            tuple(map(as_map, codes.get(i, ()), each.schedule)) if images[i] is not None else ()
            for i, each in enumerate(prepared)
        ],
        prompts=tuple(each.request.prompt for each in prepared),
        seeds=trace.seeds,
        sizes=tuple(each.size for each in prepared),
        notes=tuple("" if each.fitted is None else each.fitted.said for each in prepared),
        trace=trace,
    )
