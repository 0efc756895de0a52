"""What OpenAI's clients get back: replies, events of a stream, the list of models, errors."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.sse import format_sse_event

from stagevar.errors import OptionError, PromptError, ServiceError, SizeError, StagevarError, UnknownModelError
from stagevar.pipeline import Pipeline
from stagevar.prepared import Prepared
from stagevar.registry import known
from stagevar.serve.limits import Limits
from stagevar.serve.ticket import Finished, Partial
from stagevar.serve.wire import Asked, EditBody

Json = dict[str, Any]


def reply(asked: Asked, pictures: Sequence[str]) -> Json:
    """The whole reply; ``pictures`` in base64."""
    data = [picture(asked, each, text) for each, text in zip(asked.prepared, pictures, strict=True)]
    return {
        **described(asked, asked.prepared[0]),
        "created": int(time.time()),
        "data": data,
        "usage": usage(asked.prepared),
    }


def picture(asked: Asked, prepared: Prepared, text: str) -> Json:
    """One picture of a reply, with what repeats it."""
    kind = {"url": f"data:image/{asked.format.name};base64,{text}"} if asked.format.url else {"b64_json": text}
    return {**kind, "seed": prepared.request.seed}


def event(asked: Asked, update: Partial | Finished, text: str, number: int) -> bytes:
    """Event of a stream: a picture as it stands, or finished; ``number`` counts the partial ones of a picture."""
    prepared = asked.prepared[update.picture]
    body = {**described(asked, prepared), "b64_json": text, "created_at": int(time.time())}
    body |= {"image_index": update.picture, "seed": prepared.request.seed}
    if isinstance(update, Partial):
        more = {"partial_image_index": number, "scale": update.scale}
        return sent(f"{asked.event}.partial_image", {**body, **more})
    return sent(f"{asked.event}.completed", {**body, "usage": usage([prepared])})


def error_event(error: StagevarError) -> bytes:
    """Last event of a stream that has begun."""
    return sent("error", failure(error))


def sent(name: str, body: Json) -> bytes:
    """A server-sent event, with its name in the body too, as the clients want it."""
    return format_sse_event(event=name, data_str=json.dumps({"type": name, **body}))


def described(asked: Asked, prepared: Prepared) -> Json:
    """What pictures have in common: their true size and what was used."""
    height, width = prepared.size
    return {
        "size": f"{width}x{height}",
        "quality": asked.quality,
        "background": "opaque",
        "output_format": asked.format.name,
        "model": asked.model,
        "accelerator": str(prepared.accelerator),
    }


def usage(prepared: Sequence[Prepared]) -> Json:
    """Tokens: those of the prompts' texts, of the pictures to begin with, and of all scales."""
    text = sum(len(each.request.encoded.states.features[0]) for each in prepared if each.request.encoded is not None)
    drawn = sum(h * w for each in prepared for h, w in each.schedule)
    given = sum(h * w for each in prepared if each.fitted is not None for h, w in each.schedule)
    return {
        "input_tokens": text + given,
        "input_tokens_details": {"text_tokens": text, "image_tokens": given},
        "output_tokens": drawn,
        "total_tokens": text + given + drawn,
    }


def models(pipelines: Mapping[str, Pipeline], started: int, limits: Limits) -> Json:
    """``GET /v1/models``, with the sizes and accelerators of each."""
    return {"object": "list", "data": [model(name, pipe, started, limits) for name, pipe in pipelines.items()]}


def model(name: str, pipe: Pipeline, started: int, limits: Limits) -> Json:
    sizes = [f"{width}x{height}" for height, width in pipe.model.sizes() if height * width <= limits.pixels]
    own = {"sizes": sizes, "scales": len(pipe.model.schedule()), "accelerator": str(pipe.accelerator)}
    own |= {"accelerators": list(known()), "family": pipe.model.family}
    return {"id": name, "object": "model", "created": started, "owned_by": "stagevar", **own}


def failure(error: StagevarError, param: str | None = None) -> Json:
    """The envelope of an error."""
    code, kind = error.http_status, type(error).__name__.removesuffix("Error")
    sort = "server_error" if code >= 500 else "rate_limit_error" if code == 429 else "invalid_request_error"
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind).lstrip("_")
    return {"error": {"message": str(error), "type": sort, "param": param or about(error), "code": words}}


def about(error: StagevarError) -> str | None:
    """The field of the body that an error is about: by its kind, or else the first one that its message names."""
    for kind, name in ((PromptError, "prompt"), (SizeError, "size"), (UnknownModelError, "model")):
        if isinstance(error, kind):
            return name
    if not isinstance(error, OptionError):
        return None
    words = str(error).replace(":", " ").replace(",", " ").split()
    names = {name: name for name in EditBody.model_fields} | {"mask": "mask", "image": "image", "picture": "image"}
    return next((names[word] for word in words if word in names), "accelerator" if ":" in str(error) else None)


def headers(error: StagevarError) -> dict[str, str]:
    """Headers of an error's reply."""
    seconds = error.retry_after if isinstance(error, ServiceError) else None
    return {} if seconds is None else {"Retry-After": str(seconds)}
