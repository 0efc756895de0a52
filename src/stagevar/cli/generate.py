"""`stagevar generate`, `again` and `demo`: pictures from prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagevar.cli.options import (
    AcceleratorOption,
    AspectOption,
    BatchOption,
    DeviceOption,
    DtypeOption,
    GuidanceOption,
    HeightOption,
    JsonOption,
    MemoryOption,
    ModelOption,
    OfflineOption,
    OffloadOption,
    ParallelOption,
    Place,
    PromptsOption,
    QuantizeOption,
    QuietOption,
    RevisionOption,
    SizeOption,
    StrictOption,
    WeightsOption,
    WidthOption,
    app,
    read_numbers,
    read_place,
    read_prompts,
    read_size,
)
from stagevar.errors import OptionError, PromptError
from stagevar.failure import explain
from stagevar.parallel.ranks import portions
from stagevar.parallel.team import team

if TYPE_CHECKING:
    from PIL.Image import Image

    from stagevar.result import ScaleEvent


@app.command()
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What to draw, each in quotes.")] = None,
    file: PromptsOption = None,
    model: ModelOption = "scenes",
    count: Annotated[int, typer.Option("-n", "--count", help="Pictures per prompt.")] = 1,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same picture.")] = None,
    guidance: GuidanceOption = None,
    negative: Annotated[str | None, typer.Option(help="What the pictures should not show.")] = None,
    size: SizeOption = None,
    width: WidthOption = None,
    height: HeightOption = None,
    aspect_ratio: AspectOption = None,
    strict: StrictOption = False,
    temperature: Annotated[
        str | None, typer.Option(help="0 takes the likeliest code: a number, or one per scale.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest codes; 0 means all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from this share of probability.")] = None,
    smooth: Annotated[
        bool | None, typer.Option(help="Mix codes instead of drawing one per token, where the model can.")
    ] = None,
    accelerator: AcceleratorOption = "none",
    batch_size: BatchOption = 16,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    local_files_only: OfflineOption = False,
    offload: OffloadOption = False,
    quantize: QuantizeOption = None,
    max_memory: MemoryOption = None,
    tensor_parallel: ParallelOption = 1,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the pictures, a file such as star.png, or - for stdout.")
    ] = Path("out"),
    trace: Annotated[Path | None, typer.Option(help="File for the record of all passes, as JSON lines.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw pictures and save them as PNG files."""
    from stagevar.calling import expand
    from stagevar.cli import show
    from stagevar.cli.pictures import Target
    from stagevar.cli.work import Work
    from stagevar.drawing import read_prompts as read

    us = team()
    texts = us.told("prompts", lambda: [*(prompts or []), *read_prompts(file)])
    if not texts:
        raise PromptError("there is no prompt; say what to draw, or give a file with --prompts")
    requests = expand(
        texts,
        negative_prompt=negative,
        num_images_per_prompt=count,
        **read_size(size, width, height, aspect_ratio, strict=strict),
        guidance_scale=read_numbers(guidance, "--guidance"),
        temperature=read_numbers(temperature, "--temperature"),
        top_k=top_k,
        top_p=top_p,
        smooth=smooth,
        accelerator=accelerator,
        seed=seed,
    )
    seeds = us.told("seeds", lambda: [request.seed for request in requests])
    requests = [replace(request, seed=own) for request, own in zip(requests, seeds, strict=True)]
    _, replicas = us.ranks.replicas(tensor_parallel)
    target = Target.read(output, len(requests))
    record = None if trace is None else read_place(trace)
    if target.kind == "stream" and as_json:
        raise OptionError("the picture and --json cannot both go to standard output; let -o name a file")
    place = Place(
        model, weights, device, dtype, revision, local_files_only, offload, quantize, max_memory, tensor_parallel
    )
    if us.ranks.world > 1:  # one process downloads; alone, ``ready`` checks and loads
        us.told("files", lambda: place.fetch(requests))
    pipe = place.ready(requests)
    read_requests = read(pipe.model, requests, 16)
    work = Work(
        pipe=pipe,
        requests=read_requests,
        numbers=us.told("names", lambda: target.numbers(requests)),
        batches=portions(len(requests), batch_size, replicas),
        target=target,
        trace_file=record,
    )
    if not us.leads:
        work.draw(show.Done(), quiet=True)
        return
    with show.reporting("picture", as_json=as_json, quiet=quiet or target.kind == "stream") as done:
        with us.failing(explain):
            work.draw(done, quiet=quiet)
        if not quiet:
            show.size(pipe.model, requests[0], aside=as_json or target.kind == "stream")
            show.fit(pipe, requests[0], min(batch_size, len(requests)), aside=as_json or target.kind == "stream")


@app.command()
def again(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A PNG file of `stagevar generate`.")],
    device: DeviceOption = "auto",
    local_files_only: OfflineOption = False,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the picture, a file such as star.png, or - for stdout.")
    ] = Path("out"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw a picture once more from the record in its file.

    Says whether it came out the same, pixel by pixel. In half precision rounding depends on the size of the batch, so
    the picture is drawn as often as there were pictures in its batch.
    """
    from stagevar.calling import Drawing
    from stagevar.cli import show
    from stagevar.cli.pictures import Target
    from stagevar.cli.progress import pictures
    from stagevar.record import read_record, records
    from stagevar.request import Request

    image, record = read_record(picture)
    if record.get("plan") is not None:
        raise OptionError(f"{picture} was drawn with a plan of its own, which its record only describes")
    fields = {name: record[name] for name in record.keys() & {"prompt", *Drawing.__annotations__}}
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    request = Request(**fields | lists)
    copies = 1 if record["dtype"] == "float32" else record.get("batch", 1)
    origin, target = record["origin"], Target.read(output, 1)
    weights = None if origin.get("weights") is None else Path(origin["weights"])
    kept: dict[str, Any] = {"dtype": record["dtype"], "quantize": record.get("quantize")}
    kept |= {"revision": origin.get("revision"), "local_files_only": local_files_only}
    place = Place(origin["source"], weights, device, **kept)
    pipe = place.ready([request], prompts=[request.prompt])
    with show.reporting("picture", as_json=as_json, quiet=quiet or target.kind == "stream") as done:
        with pictures(copies, quiet=quiet) as watched:
            *_, event = watched(pipe.events([request] * copies, batch_size=copies))
        assert event.result is not None
        kept = records(event.result.trace)[0]
        same = event.result.images[0].tobytes() == image.tobytes()
        done.traces.append(event.result.trace)
        done.pictures.append({"file": target.write(event.result.images[0], kept), **kept, "same": same})
        if not (as_json or quiet or target.kind == "stream"):
            show.line("the same picture, pixel by pixel" if same else "NOT the same picture")


@app.command()
def demo(
    model: ModelOption = "scenes",
    seed: Annotated[int, typer.Option(help="Of all four pictures.")] = 0,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    quantize: QuantizeOption = None,
    max_memory: MemoryOption = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the contact sheet.")] = Path("out"),
    quiet: QuietOption = False,
) -> None:
    """Draw four prompts, every scale on one sheet.

    The contact sheet shows each picture after every scale.
    """
    from stagevar.cli import show
    from stagevar.cli.pictures import slug
    from stagevar.cli.progress import pictures
    from stagevar.cli.sheet import contact_sheet
    from stagevar.files import replacing

    output = read_place(output, folder=True)
    pipe = Place(model, weights, device, dtype, quantize=quantize, max_memory=max_memory).load()
    prompts = pipe.model.samples[:4]
    columns: list[tuple[str, Callable[[], list[Image]]]] = []
    event: ScaleEvent | None = None
    with pictures(len(prompts), quiet=quiet) as watched:
        for event in watched(pipe.stream(prompts, seed=seed)):
            columns.append((f"{event.grid[0]}x{event.grid[1]}", event.start_previews()))
    assert event is not None and event.result is not None
    path = output / f"demo-{slug(pipe.model.name)}.png"
    with replacing(path) as temporary:
        contact_sheet(prompts, [(grid, previews()) for grid, previews in columns]).save(temporary, format="png")
    if not quiet:
        show.scales(event.result.trace)
        show.times([event.result.trace])
    typer.echo(path)
