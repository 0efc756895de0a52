"""`stagevar ui`: the page in the browser."""

from __future__ import annotations

import socket
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from stagevar.cli.options import (
    DeviceOption,
    DtypeOption,
    MemoryOption,
    OfflineOption,
    OffloadOption,
    Place,
    QuantizeOption,
    RevisionOption,
    WeightsOption,
    app,
    one_per_model,
)
from stagevar.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stagevar.pipeline import Pipeline


@app.command()
def ui(
    models: Annotated[
        list[str], typer.Option("--model", "-m", help="As in `generate`; several for a page that offers them all.")
    ] = ["scenes"],  # noqa: B006
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    local_files_only: OfflineOption = False,
    offload: OffloadOption = False,
    quantize: QuantizeOption = None,
    max_memory: MemoryOption = None,
    edits: Annotated[
        bool, typer.Option("--edits", help="Load the encoders of tokenizers too, for the tab that edits pictures.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen at; the default is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
) -> None:
    """Open a page that compares an accelerator with the plain run, and edits pictures.

    The picture sharpens scale by scale; both runs have the same seed. The page asks nothing of other servers.
    """
    place = Place("", weights, device, dtype, revision, local_files_only, offload, quantize, max_memory, encoder=edits)
    places = one_per_model(models, place)
    if find_spec("gradio") is None:
        raise MissingExtraError("gradio", "ui")
    with _listen(host, port) as listening:
        _serve(listening, [place.ready([]) for place in places], f"http://{_shown(host)}:{listening.getsockname()[1]}/")


def _serve(listening: socket.socket, pipelines: Sequence[Pipeline], url: str) -> None:
    """The page, until an interrupt."""
    import uvicorn
    from fastapi import FastAPI

    from stagevar.ui.page import mount

    application = FastAPI(openapi_url=None)
    mount(application, *pipelines)
    typer.echo(f"the page is at {url} until Ctrl+C")
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """The socket, taken before a model is loaded.

    Raises:
        OptionError: address or port are not to be had.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise OptionError(f"cannot listen at {host}, port {port}: {why}; give another --host or --port") from None


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
