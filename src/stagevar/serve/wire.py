"""A request as OpenAI's clients send it, read into what the engine draws."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stagevar.calling import ELSEWHERE, expand
from stagevar.engine.grids.grid import Schedule
from stagevar.errors import OptionError, PromptError, SizeError, UnknownModelError, quoted, some
from stagevar.pipeline import Pipeline
from stagevar.prepared import Prepared, require_picture
from stagevar.registry import parse_foreign
from stagevar.serve.limits import Limits
from stagevar.serve.pictures import Format

QUALITIES = {"low": 0.0, "medium": 0.5, "high": 1.0, "hd": 1.0}
"""OpenAI's words, as places of the dial of ``stagevar``; at 1 it is the plain run."""

EARLIEST, LATEST = 0.1, 0.75
"""Shares of all tokens behind which the first and the last partial picture of a request are shown at the latest."""

HERE = {"num_images_per_prompt": "n", "height and width": "size", "height": "size", "width": "size"}
"""Names of the Python call, and those of the body."""


class Body(BaseModel):
    """Body of ``POST /v1/images/generations``: the fields of OpenAI's, then those of this engine."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra={"example": {"prompt": "a red circle"}})

    prompt: str = Field("", description="What to draw.")
    model: str | None = Field(None, description="A name that GET /v1/models lists; the first one if left out.")
    n: int | None = Field(None, ge=1, description="Pictures; they count up from the seed.")
    size: str | None = Field(None, description="auto, or WIDTHxHEIGHT: the nearest size that the model draws.")
    quality: float | Literal["auto", "low", "medium", "high", "standard", "hd"] | None = Field(
        None, description="The dial of stagevar, 0 (fastest) to 1 (the plain run), in place of an accelerator."
    )
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(None, ge=0, le=100, description="Of jpeg and webp: 100 is best.")
    response_format: Literal["b64_json", "url"] | None = Field(None, description="url gives a data: URL.")
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    partial_images: int | None = Field(None, ge=0, le=3, description="Pictures before the final one, with stream.")
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = Field(None, description="Without effect.")
    style: str | None = Field(None, description="Without effect.")
    user: str | None = Field(None, description="Without effect.")
    safety_identifier: str | None = Field(None, description="Without effect.")

    seed: int | None = Field(None, description="0 to 2**64 - 1; a fresh one if left out, reported in the reply.")
    negative_prompt: str | None = None
    guidance_scale: float | list[float] | None = Field(None, description="A number, or one per scale.")
    true_cfg_scale: float | list[float] | None = Field(None, description="The same as guidance_scale.")
    temperature: float | list[float] | None = Field(None, description="A number, or one per scale.")
    top_k: int | list[int] | None = Field(None, description="A number, or one per scale.")
    top_p: float | list[float] | None = Field(None, description="A number, or one per scale.")
    smooth: bool | None = None
    unconditional: bool | None = Field(None, description="Draw without a prompt.")
    aspect_ratio: float | str | None = Field(None, description="Such as 1.5 or 3:2, in place of a size.")
    strict: bool | None = Field(None, description="Refuse a size that the model does not draw.")
    accelerator: str | None = Field(None, description="Such as stagevar(quality=0.3); sums with +.")
    preview_scales: list[int] | None = Field(
        None,
        description="Scales whose pictures are shown, with stream, in place of partial_images; -2 is the last but one.",
    )


class EditBody(Body):
    """Fields of ``POST /v1/images/edits`` beside the files ``image`` and ``mask``; they come as text."""

    model_config = ConfigDict(strict=False, json_schema_extra=None)

    input_fidelity: Literal["high", "low"] | None = Field(None, description="Without effect.")
    strength: float | None = Field(None, description="Share of the scales that are drawn; 1 with a mask, else 0.5.")
    soft_edge: float | None = Field(None, description="Pixels by which the mask grows at fine scales.")
    expand: int | list[int] | None = Field(None, description="Pixels around it: one, or left, top, right, bottom.")
    upscale: float | None = Field(None, description="Factor of the sides.")
    fit: Literal["crop", "pad", "stretch"] | None = Field(
        None, description="Where ratios differ; crop, or pad with expand, if left out."
    )


EDITING = ("strength", "soft_edge", "expand", "upscale", "fit")
"""Fields of an edit's body that the call of the pipeline has too."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has been read.

    Attributes:
        model: name of the model.
        prepared: its pictures.
        previews: scales after which a client of a stream sees pictures.
        format: how pictures are written.
        quality: OpenAI's word for it.
        stream: whether the answer is a stream.
        event: first part of the names of its events.
    """

    model: str
    prepared: list[Prepared]
    previews: frozenset[int]
    format: Format
    quality: str
    stream: bool
    event: str


def unknown(name: str, body: type[Body]) -> OptionError:
    """The error of a field that a body has not, with the right one."""
    instead = HERE.get(name) or ELSEWHERE.get(name, "")
    instead = HERE.get(instead, instead) or "".join(get_close_matches(name, body.model_fields, 1))
    return OptionError(f"there is no option {quoted(name)}{f'; use {instead}' if instead else ''}")


def pipeline_of(name: str, pipelines: Mapping[str, Pipeline]) -> Pipeline:
    """The model of a name.

    Raises:
        UnknownModelError: it is not served.
    """
    if name not in pipelines:
        raise UnknownModelError(f"model {quoted(name)} is not served here; there is {some(pipelines, 20)}")
    return pipelines[name]


def read(
    body: Body,
    pipelines: Mapping[str, Pipeline],
    limits: Limits,
    image: bytes | None = None,
    mask: bytes | None = None,
) -> Asked:
    """What a body asks for, checked as far as it can be without drawing.

    Args:
        body: of an edit, if there is an image.
        pipelines: the models by name.
        limits: of one request.
        image, mask: files of an edit.

    Raises:
        UnknownModelError: a model that is not served.
        PromptError, SizeError, OptionError
    """
    model = next(iter(pipelines)) if body.model is None else body.model
    pipe = pipeline_of(model, pipelines)
    for text in (body.prompt, body.negative_prompt or ""):
        if len(text) > limits.prompt:
            raise PromptError(f"prompt of {len(text)} characters; at most {limits.prompt} are read here")
    count = body.n or 1
    if count > limits.pictures:
        raise OptionError(f"n must be at most {limits.pictures} here, not {count}")
    if not body.stream and (body.partial_images or body.preview_scales):
        raise OptionError(f"{'partial_images' if body.partial_images else 'preview_scales'} needs stream")
    settings: dict[str, Any] = _sides(body.size, limits.pixels)
    if image is not None:
        settings |= {"image": image, "mask": mask, **{name: getattr(body, name) for name in EDITING}}
    requests = expand(
        body.prompt,
        num_images_per_prompt=count,
        seed=body.seed,
        negative_prompt=body.negative_prompt,
        guidance_scale=_guidance(body),
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        smooth=body.smooth,
        unconditional=bool(body.unconditional),
        aspect_ratio=body.aspect_ratio,
        strict=bool(body.strict),
        accelerator=_accelerator(body),
        **settings,
    )
    require_picture(pipe.model, requests[0])
    prepared = [pipe.prepare(request) for request in requests]
    height, width = prepared[0].size
    if height * width > limits.pixels:
        raise SizeError(f"size {width}x{height} has more than the {limits.pixels} pixels that are drawn here")
    previews = _previews(body, prepared[0].schedule)
    picture = Format.read(body.output_format, body.output_compression, body.response_format)
    event = "image_generation" if image is None else "image_edit"
    return Asked(model, prepared, previews, picture, _quality_word(body), bool(body.stream), event)


def _guidance(body: Body) -> Any:
    if body.guidance_scale is not None and body.true_cfg_scale is not None:
        raise OptionError("guidance_scale and true_cfg_scale are the same; give one")
    return body.true_cfg_scale if body.guidance_scale is None else body.guidance_scale


def _accelerator(body: Body) -> Any:
    """The accelerator that a body names, or its place of the dial; None leaves it to the server. No field of it names a
    file."""
    quality = QUALITIES.get(body.quality) if isinstance(body.quality, str) else body.quality
    if quality is not None and body.accelerator is not None:
        raise OptionError("quality is the dial of the accelerator stagevar; give quality or accelerator, not both")
    text = body.accelerator if quality is None else f"stagevar(quality={quality!r})"
    return None if text is None else parse_foreign(text)


def _quality_word(body: Body) -> str:
    """The quality as a word of OpenAI's format."""
    if isinstance(body.quality, float):
        place = body.quality
        return min(("low", "medium", "high"), key=lambda word: abs(QUALITIES[word] - place))
    return {"hd": "high", "standard": "auto"}.get(body.quality or "auto", body.quality or "auto")


def _sides(size: str | None, pixels: int) -> dict[str, int]:
    """Height and width of a size; none for ``auto``."""
    if size is None or size == "auto":
        return {}
    sides = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", size)
    if sides is None:
        raise SizeError(f"size must be auto or WIDTHxHEIGHT such as 64x64, not {quoted(size)}")
    width, height = int(sides[1]), int(sides[2])
    if height * width > pixels:
        raise SizeError(f"size {width}x{height} has more than the {pixels} pixels that are drawn here")
    return {"height": height, "width": width}


def _previews(body: Body, schedule: Schedule) -> frozenset[int]:
    """The scales after which pictures are shown.

    ``partial_images`` spreads them over the tokens: each is the latest scale behind which a wanted share is drawn.
    """
    if body.preview_scales is not None:
        if body.partial_images is not None:
            raise OptionError("preview_scales takes the place of partial_images; give one")
        count = len(schedule)
        if strange := [k for k in body.preview_scales if not -count <= k < count]:
            raise OptionError(f"preview_scales must lie between {-count} and {count - 1}, not {quoted(strange[0])}")
        return frozenset(k % count for k in body.preview_scales) - {count - 1}
    tokens = [h * w for h, w in schedule]
    count, shown = min(body.partial_images or 0, len(tokens) - 1), list[int]()
    for i in range(count):
        share = EARLIEST + (LATEST - EARLIEST) * i / max(count - 1, 1)
        latest = sum(sum(tokens[: k + 1]) <= share * sum(tokens) for k in range(len(tokens))) - 1
        after, before = shown[-1] + 1 if shown else 0, len(tokens) - 1 - (count - i)
        shown.append(min(max(latest, after), before))
    return frozenset(shown)
