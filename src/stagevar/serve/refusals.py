"""Answers to what is not served: each error of the table in OpenAI's envelope."""

from __future__ import annotations

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from stagevar.errors import RequestError, StagevarError
from stagevar.serve import replies
from stagevar.serve.limits import EDITS
from stagevar.serve.wire import Body, EditBody, unknown


async def refused(request: Request, error: Exception) -> JSONResponse:
    """An error of the table."""
    assert isinstance(error, StagevarError)
    return JSONResponse(replies.failure(error), error.http_status, replies.headers(error))


async def misread(request: Request, error: Exception) -> JSONResponse:
    """A body that has another form than ``Body``; the first thing that is wrong with it."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place, name = first["loc"], str(first["loc"][1]) if len(first["loc"]) > 1 else ""
    if first["type"] == "extra_forbidden":
        found: StagevarError = unknown(name, EditBody if request.url.path == EDITS else Body)
    elif place == ("body",) or first["type"] == "json_invalid":
        found, name = RequestError("the body must be a JSON object, sent as Content-Type: application/json"), ""
    else:
        found = RequestError(f"{name}: {first['msg']}")
    return JSONResponse(replies.failure(found, name or None), 400)


async def not_served(request: Request, error: Exception) -> JSONResponse:
    """What HTTP itself refuses: paths and methods that there are not."""
    assert isinstance(error, HTTPException)
    found = RequestError(f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(replies.failure(found), error.status_code, error.headers)


async def failed(request: Request, error: Exception) -> JSONResponse:
    """A fault of the server."""
    return JSONResponse(replies.failure(StagevarError("the server failed; its log says why")), 500)
