"""The application: its routes, and what each of them answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from stagevar import __version__
from stagevar.errors import ServiceError, StagevarError
from stagevar.serve import answers, refusals, replies
from stagevar.serve.door import Door
from stagevar.serve.forms import FORM, read_form
from stagevar.serve.limits import EDITS, MODELS, PICTURES, Limits
from stagevar.serve.metrics import Metrics
from stagevar.serve.scheduler import Scheduler
from stagevar.serve.trimming import trim_regularly
from stagevar.serve.wire import Asked, Body, pipeline_of, read

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["message", "type", "param", "code"]}},
}
CODES = 400, 401, 404, 408, 413, 429, 500, 501, 503, 504
RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"description": "An error.", "content": {"application/json": {"schema": ERROR}}} for code in CODES
}
PICTURE = {"description": "Pictures, whole or as events.", "content": {"text/event-stream": {"schema": {}}}}


def application(
    scheduler: Scheduler,
    metrics: Metrics,
    *,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    log_prompts: bool = False,
    started: int | None = None,
) -> FastAPI:
    """The server's application; its life spans that of the scheduler.

    Args:
        scheduler: draws.
        metrics: the scheduler's.
        limits: of one request.
        keys: API keys; without any, none is asked for.
        log_prompts: whether prompts stand in the log.
        started: since when the models are served, in seconds of Unix time; None is now.
    """
    limits, since = limits or Limits(), int(time.time()) if started is None else started

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        thread = Thread(target=scheduler.run, name="drawing", daemon=True)
        thread.start()
        trimming = asyncio.create_task(trim_regularly())
        yield
        trimming.cancel()
        scheduler.close()
        await asyncio.to_thread(thread.join)

    app = FastAPI(title="stagevar", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(Door, keys=keys, limits=limits, metrics=metrics)
    app.add_exception_handler(StagevarError, refusals.refused)
    app.add_exception_handler(RequestValidationError, refusals.misread)
    app.add_exception_handler(HTTPException, refusals.not_served)
    app.add_exception_handler(Exception, refusals.failed)

    @app.post(PICTURES, responses={200: PICTURE, **RESPONSES})
    async def generate(body: Body, request: Request) -> Response:
        """Draw pictures, at once or as a stream of server-sent events."""
        require_models(scheduler)
        asked = read(body, scheduler.pipelines, limits)
        note(request, asked, body.prompt if log_prompts else None)
        return await answered(request, scheduler, asked, limits)

    @app.post(EDITS, responses={200: PICTURE, **RESPONSES}, openapi_extra={"requestBody": FORM})
    async def edit(request: Request) -> Response:
        """Draw a picture anew, or the part of it that a mask shows."""
        require_models(scheduler)
        body, image, mask = await read_form(request)
        asked = await asyncio.to_thread(read, body, scheduler.pipelines, limits, image, mask)
        note(request, asked, body.prompt if log_prompts else None)
        return await answered(request, scheduler, asked, limits)

    @app.get(MODELS, responses=RESPONSES)
    async def models() -> JSONResponse:
        """The models, with sizes and accelerators."""
        require_models(scheduler)
        return JSONResponse(replies.models(scheduler.pipelines, since, limits))

    @app.get(MODELS + "/{name:path}", responses=RESPONSES)
    async def one_model(name: str) -> JSONResponse:
        """One of the models."""
        require_models(scheduler)
        pipe = pipeline_of(name, scheduler.pipelines)
        return JSONResponse(replies.model(name, pipe, since, limits))

    @app.get("/health")
    async def health() -> JSONResponse:
        """The process is alive."""
        return JSONResponse({"status": "alive"})

    @app.get("/ready", responses={503: RESPONSES[503]})
    async def ready() -> JSONResponse:
        """The weights are loaded, and requests are taken."""
        require_models(scheduler)
        return JSONResponse({"status": "ready", "models": list(scheduler.pipelines)})

    @app.get("/metrics", responses=RESPONSES)
    async def numbers() -> Response:
        """Numbers for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def answered(request: Request, scheduler: Scheduler, asked: Asked, limits: Limits) -> Response:
    """The pictures of a request, at once or as a stream.

    Raises:
        StagevarError: they cannot be drawn.
    """
    if not asked.stream:
        return JSONResponse(await answers.whole(request, scheduler, asked, limits))
    events = answers.stream(request, scheduler, asked, limits)
    first = await anext(events)
    return StreamingResponse(answers.joined(first, events), media_type="text/event-stream")


def require_models(scheduler: Scheduler) -> None:
    """Raise unless the server takes requests.

    Raises:
        ServiceError
    """
    if scheduler.closing:
        raise ServiceError("the server is stopping; ask again when it is back")
    if not scheduler.pipelines:
        raise ServiceError("the weights are being loaded; ask again soon", retry_after=1)


def note(request: Request, asked: Asked, prompt: str | None) -> None:
    """What the log says of a request for pictures."""
    first = asked.prepared[0]
    line = {"client": request.state.client, "model": asked.model, "pictures": len(asked.prepared)}
    line |= {"size": f"{first.size[1]}x{first.size[0]}", "accelerator": str(first.accelerator), "stream": asked.stream}
    request.state.line |= line if prompt is None else {**line, "prompt": prompt}
