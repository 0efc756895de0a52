"""`stagevar serve`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagevar.cli.jobs import AddressOption
from stagevar.cli.options import (
    AcceleratorOption,
    BatchOption,
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
from stagevar.errors import MissingExtraError, MissingFileError, OptionError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from stagevar.accelerators.base import Accelerator
    from stagevar.pipeline import Pipeline

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEYS = "STAGEVAR_API_KEYS"


@app.command()
def serve(
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="As in generate; may be repeated.", show_default="scenes")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 means all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    accelerator: AcceleratorOption = "none",
    batch_size: BatchOption = 16,
    wait: Annotated[float, typer.Option(min=0, max=10_000, help="Milliseconds that a batch waits for company.")] = 10,
    queue: Annotated[int, typer.Option(min=1, help="Pictures that may wait; more are refused.")] = 64,
    lanes: Annotated[
        int,
        typer.Option(
            min=0, help="Batches drawn at once, which share the cores; 0 is two on a CPU of several, without --ui."
        ),
    ] = 0,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")] = 120,
    most_pictures: Annotated[int, typer.Option("--max-n", min=1, help="Pictures of one request.")] = 10,
    most_prompt: Annotated[int, typer.Option("--max-prompt", min=1, help="Characters of a prompt.")] = 4000,
    most_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Pixels of a picture.")] = 2**22,
    most_body: Annotated[int, typer.Option("--max-body", min=1024, help="Bytes of a request.")] = 2**18,
    edits: Annotated[
        bool, typer.Option("--edits", help="Load the encoders of tokenizers too, for pictures as input.")
    ] = False,
    most_upload: Annotated[int, typer.Option("--max-upload", min=1024, help="Bytes of a request with pictures.")] = 2
    ** 24,
    api_keys: Annotated[
        Path | None, typer.Option(help=f"File with an API key per line; {KEYS} in the environment does it too.")
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log.")] = False,
    ui: Annotated[bool, typer.Option("--ui", help="Show the page of `stagevar ui` at /.")] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="Serve with replicas on Ray, on this machine or a cluster.")
    ] = False,
    ray_address: AddressOption = None,
    least: Annotated[int, typer.Option("--replicas", min=1, help="Replicas on Ray that there are always.")] = 1,
    most: Annotated[int, typer.Option("--max-replicas", min=0, help="More of them while they are busy.")] = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    weights: WeightsOption = None,
    revision: RevisionOption = None,
    local_files_only: OfflineOption = False,
    offload: OffloadOption = False,
    quantize: QuantizeOption = None,
    max_memory: MemoryOption = None,
) -> None:
    """Serve pictures in OpenAI's format at /v1/images/generations and /v1/images/edits.

    SIGTERM and an interrupt let it finish what it has accepted. The log goes to standard error, a JSON object a line.
    """
    try:
        from stagevar.serve.app import application
        from stagevar.serve.metrics import Metrics
        from stagevar.serve.server import serve as run
        from stagevar.serve.server import write_log
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "serve") from None
    from stagevar.registry import parse
    from stagevar.request import Request
    from stagevar.serve.limits import Limits
    from stagevar.serve.scheduler import Scheduler

    remote = ray or ray_address is not None
    if (least, most) != (1, 0) and not remote:
        raise OptionError("--replicas are those of Ray; give --ray too")
    if lanes > 1 and max_memory is not None:
        raise OptionError("memory is foreseen for one batch at a time; give --lanes or --max-memory, not both")
    if ui and remote:
        raise OptionError("the page draws in the server's own process; give --ui or --ray, not both")
    names, keys, chosen = list(dict.fromkeys(models or ["scenes"])), read_keys(api_keys), parse(accelerator)
    if ui and keys:
        raise OptionError("the page asks for no API key; give --ui or API keys, not both")
    if len({Path(name).name for name in names}) < len(names):
        raise OptionError(
            f"models are served under the last part of their names, which must differ: {', '.join(names)}"
        )
    common = Place("", weights, device, dtype, revision, local_files_only, offload, quantize, max_memory, encoder=edits)
    asked = [Request("any", accelerator=chosen)]
    places = [place.checked(asked)[1] for place in one_per_model(names, common)]

    load = Loading(places, chosen)
    limits = Limits(
        body=most_body,
        upload=most_upload,
        prompt=most_prompt,
        pictures=most_pictures,
        pixels=most_pixels,
        deadline=deadline,
    )
    drawing: dict[str, Any] = {"batch": batch_size, "wait": wait / 1e3, "queue": queue, "lanes": lanes or int(ui)}

    def listening(port: int) -> None:
        write_log()
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        typer.echo(f"serving {', '.join(names)} at {where}/v1", err=True)
        if host not in LOOPBACK and not keys:
            typer.echo("warning: anyone who reaches this address can draw; --api-keys asks for a key", err=True)

    if remote:
        from stagevar.serve.replicas import Served, serve_replicas

        for place in places:
            place.fetch([])
        what = Served(load, **drawing, limits=limits, keys=keys, log_prompts=log_prompts)
        where: dict[str, Any] = {"host": host, "port": port, "address": ray_address or ""}
        serve_replicas(what, **where, least=least, most=max(least, most), listening=listening)
        return
    loaded, metrics = load() if ui else None, Metrics()
    scheduler = Scheduler((lambda: loaded) if loaded else load, metrics, **drawing)
    served = application(scheduler, metrics, limits=limits, keys=keys, log_prompts=log_prompts)
    if loaded:
        mount(served, loaded.values())
    run(served, scheduler, host=host, port=port, deadline=deadline, listening=listening)


@dataclass(frozen=True)
class Loading:
    """Loads the models that are served, by the last part of each name, in this process or in a replica."""

    places: Sequence[Place]
    accelerator: Accelerator

    def __call__(self) -> Mapping[str, Pipeline]:
        loaded = {Path(place.model).name: place.load() for place in self.places}
        for pipe in loaded.values():
            pipe.accelerator = self.accelerator
        return loaded


def read_keys(path: Path | None) -> list[str]:
    """The API keys of a file and of the environment, which separates them by commas.

    Raises:
        MissingFileError: the file cannot be read.
        OptionError: it holds no key, or one that no header can carry.
    """
    keys = [key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip()]
    if path is not None:
        try:
            found = [
                line.strip() for line in path.expanduser().read_text(encoding="utf-8").splitlines() if line.strip()
            ]
        except (OSError, UnicodeDecodeError) as error:
            raise MissingFileError(
                f"cannot read API keys {path}: {getattr(error, 'strerror', None) or error}"
            ) from None
        if not found:
            raise OptionError(f"{path} holds no API key; write one per line")
        keys += found
    for number, key in enumerate(keys, 1):
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise OptionError(f"API key {number} has characters other than letters, digits and signs of ASCII")
    return keys


def mount(served: FastAPI, pipes: Iterable[Pipeline]) -> None:
    """Put the page behind the server's own paths.

    Raises:
        MissingExtraError: the page is not installed.
    """
    try:
        from stagevar.ui.page import mount as show
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "ui") from None
    show(served, *pipes)
