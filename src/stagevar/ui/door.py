"""What a browser reaches of gradio: the page, its queue and its uploads, and no other file or server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, HTTPException
from gradio.utils import get_upload_folder
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOAD = "/gradio_api/upload"
PATHS = {
    "GET": {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json"}
    | {f"/gradio_api/{name}" for name in ("app_id", "queue/data", "startup-events", "upload_progress")},
    "POST": {UPLOAD} | {f"/gradio_api/{name}" for name in ("cancel", "queue/join", "reset", "run/predict")},
}
"""What the page asks for, by method."""
BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
"""Folders of which it gets any file."""

LARGEST = 2**18
"""Most bytes of a body that is no upload."""
WAITING = 64
"""Most presses that wait for their turn."""


class Page(gr.Blocks):
    """A page that takes no file but those that were uploaded to it.

    gradio makes sure of that where it serves a page by itself. In an application of others it copies every file of this
    machine, and fetches every address, that a browser names in place of an upload.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> list[Any]:
        folder = Path(get_upload_folder()).resolve()
        for path in _paths(inputs):
            if not (isinstance(path, str) and _uploaded(path, folder)):
                raise gr.Error("the picture is not there any more; choose it once more", print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *rest, **named)


class Door:
    """Around the application that gradio makes of a page: what the page does not ask for is not there."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/") or "/"
        if scope["type"] != "http" or not _asked(scope["method"], path):
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > LARGEST:
                raise HTTPException(413, f"the body has more than {LARGEST} bytes, which is the most here")
            return message

        await self.app(scope, receive if path == UPLOAD else limited, send)


def mount(app: FastAPI, page: Page, path: str, **settings: Any) -> None:
    """Put a page behind its door, and all that draws into its queue.

    Args:
        settings: as ``gradio.mount_gradio_app`` takes them.
    """
    page.queue(api_open=False, max_size=WAITING)
    gr.mount_gradio_app(app, page, path, **settings)
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    mounted.app = Door(mounted.app)


def _asked(method: str, path: str) -> bool:
    """Whether a page asks for a path."""
    method = "GET" if method == "HEAD" else method
    return path in PATHS.get(method, ()) or (method == "GET" and path.startswith(BELOW))


def _paths(value: Any) -> Iterator[Any]:
    """What stands for files in the fields of a page."""
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        yield from _paths(list(value.values()))
    elif isinstance(value, list):
        for each in value:
            yield from _paths(each)


def _uploaded(text: str, folder: Path) -> bool:
    try:
        path = Path(text).resolve()
        return path.is_relative_to(folder) and path.is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False
