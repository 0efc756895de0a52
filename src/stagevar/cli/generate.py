"""`stagevar generate`, `again` and `demo`: pictures from prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagevar.cli.drawn import (
    CountOption,
    NegativeOption,
    PicturesOption,
    SeedOption,
    SmoothOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    TraceOption,
)
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
    read_whole_numbers,
)
from stagevar.errors import PromptError
from stagevar.parallel.team import team

if TYPE_CHECKING:
    from PIL.Image import Image

    from stagevar.result import ScaleEvent


@app.command()
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What to draw, each in quotes.")] = None,
    file: PromptsOption = None,
    model: ModelOption = "scenes",
    count: CountOption = 1,
    seed: SeedOption = None,
    guidance: GuidanceOption = None,
    negative: NegativeOption = None,
    unconditional: Annotated[bool, typer.Option("--unconditional", help="Draw without a prompt.")] = False,
    size: SizeOption = None,
    width: WidthOption = None,
    height: HeightOption = None,
    aspect_ratio: AspectOption = None,
    strict: StrictOption = False,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    smooth: SmoothOption = None,
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
    output: PicturesOption = Path("out"),
    trace: TraceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw pictures and save them as PNG files."""
    from stagevar.calling import expand
    from stagevar.cli.work import produce

    us = team()
    texts = us.told("prompts", lambda: [*(prompts or []), *read_prompts(file)])
    if not texts and not unconditional:
        raise PromptError("there is no prompt; say what to draw, or give a file with --prompts")
    requests = expand(
        texts or [""],
        negative_prompt=negative,
        num_images_per_prompt=count,
        **read_size(size, width, height, aspect_ratio, strict=strict),
        guidance_scale=read_numbers(guidance, "--guidance"),
        temperature=read_numbers(temperature, "--temperature"),
        top_k=read_whole_numbers(top_k, "--top-k"),
        top_p=read_numbers(top_p, "--top-p"),
        smooth=smooth,
        unconditional=unconditional,
        accelerator=accelerator,
        seed=seed,
    )
    place = Place(
        model, weights, device, dtype, revision, local_files_only, offload, quantize, max_memory, tensor_parallel
    )
    produce(requests, place, output, trace, batch_size=batch_size, as_json=as_json, quiet=quiet)


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
    from stagevar.cli import show
    from stagevar.cli.pictures import Target, require_apart
    from stagevar.cli.progress import pictures
    from stagevar.cli.repeat import repeated
    from stagevar.record import records

    image, record, request, place = repeated(picture, device, local_files_only=local_files_only)
    copies = 1 if record["dtype"] == "float32" else record.get("batch", 1)
    target = Target.read(output, 1)
    require_apart(target.kind == "stream", as_json)
    pipe = place.ready([request], prompts=[request.prompt] * (not request.unconditional))
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
    from stagevar.cli.sheet import contact_sheet, fields, is_demo
    from stagevar.files import replacing, require_own
    from stagevar.loading.sources import outline
    from stagevar.request import Request

    place = Place(model, weights, device, dtype, quantize=quantize, max_memory=max_memory)
    output = read_place(output, folder=True)
    drawn = outline(place.resolve())
    path, prompts = output / f"demo-{slug(drawn.name)}.png", drawn.samples[:4]
    require_own(path, is_demo)
    pipe = place.ready([Request(prompt, seed=seed) for prompt in prompts])
    columns: list[tuple[str, Callable[[], list[Image]]]] = []
    event: ScaleEvent | None = None
    with pictures(len(prompts), quiet=quiet) as watched:
        for event in watched(pipe.stream(prompts, seed=seed)):
            columns.append((f"{event.grid[0]}x{event.grid[1]}", event.start_previews()))
    assert event is not None and event.result is not None
    sheet = contact_sheet(prompts, [(grid, previews()) for grid, previews in columns])
    with replacing(path) as temporary:
        sheet.save(temporary, format="png", pnginfo=fields(pipe.model.name))
    if not quiet:
        show.scales(event.result.trace)
        show.times([event.result.trace])
    typer.echo(path)
