"""`stagevar generate` and `stagevar demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagevar.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    QuietOption,
    SizeOption,
    WeightsOption,
    app,
    load_pipeline,
    read_numbers,
    read_size,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from stagevar.result import ScaleEvent


@app.command()
def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to draw, each in quotes.")],
    model: ModelOption = "scenes",
    count: Annotated[int, typer.Option("-n", "--count", help="Pictures per prompt.")] = 1,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same picture.")] = None,
    guidance: Annotated[str | None, typer.Option(help="Weight of the prompt: a number, or one per scale.")] = None,
    negative: Annotated[str | None, typer.Option(help="What the pictures should not show.")] = None,
    size: SizeOption = None,
    aspect_ratio: Annotated[str | None, typer.Option(metavar="W:H", help="Such as 3:2, in place of --size.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a size that the model does not draw.")] = False,
    temperature: Annotated[
        str | None, typer.Option(help="0 takes the likeliest code: a number, or one per scale.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest codes; 0 means all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from this share of probability.")] = None,
    smooth: Annotated[
        bool | None, typer.Option(help="Mix codes instead of drawing one per token, where the model can.")
    ] = None,
    accelerator: Annotated[
        str, typer.Option("--accelerator", "-a", help="Such as 'stagevar' or 'drop_last(1)'; sums with +.")
    ] = "none",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")] = 16,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the pictures.")] = Path("out"),
    trace: Annotated[Path | None, typer.Option(help="File for the record of all passes, as JSON lines.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw pictures and save them as PNG files."""
    from stagevar.calling import expand
    from stagevar.cli import show
    from stagevar.cli.pictures import write
    from stagevar.engine.loop.trace import write as write_traces

    height, width = read_size(size)
    requests = expand(
        prompts,
        negative_prompt=negative,
        num_images_per_prompt=count,
        height=height,
        width=width,
        aspect_ratio=aspect_ratio,
        strict=strict,
        guidance_scale=read_numbers(guidance, "--guidance"),
        temperature=read_numbers(temperature, "--temperature"),
        top_k=top_k,
        top_p=top_p,
        smooth=smooth,
        accelerator=accelerator,
        seed=seed,
    )
    pipe = load_pipeline(model, weights, device, dtype)
    pictures, traces = [], []
    for start in range(0, len(requests), batch_size):  # what is done is on disk before the next batch begins
        batch = requests[start : start + batch_size]
        result = show.last(show.progress(pipe.events(batch, batch_size=batch_size), quiet=quiet))
        for request, image, drawn in zip(batch, result.images, result.sizes, strict=True):
            file = write(output, image, request.prompt, request.seed, pipe.model.name)
            row = {"file": str(file), "prompt": request.prompt, "seed": request.seed, "size": list(drawn)}
            pictures.append(row)
        traces.append(result.trace)
        if trace is not None:
            write_traces(trace, traces)
    if as_json:
        typer.echo(json.dumps({"pictures": pictures, "traces": [trace.to_dict() for trace in traces]}))
    elif not quiet:
        show.pictures(pictures)
        show.times(traces)
        show.size((height, width), result.sizes[0])


@app.command()
def demo(
    model: ModelOption = "scenes",
    seed: Annotated[int, typer.Option(help="Of all four pictures.")] = 0,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the contact sheet.")] = Path("out"),
    quiet: QuietOption = False,
) -> None:
    """Draw four prompts, every scale on one sheet.

    The contact sheet shows each picture after every scale.
    """
    from stagevar.cli import show
    from stagevar.cli.pictures import contact_sheet, slug
    from stagevar.files import replacing

    pipe = load_pipeline(model, weights, device)
    prompts = pipe.model.samples[:4]
    columns: list[tuple[str, list[Image]]] = []

    def keep(event: ScaleEvent) -> None:
        columns.append((f"{event.grid[0]}x{event.grid[1]}", event.previews))

    result = show.last(show.progress(pipe.stream(prompts, seed=seed), quiet=quiet), keep)
    path = output / f"demo-{slug(pipe.model.name)}.png"
    with replacing(path) as temporary:
        contact_sheet(prompts, columns).save(temporary, format="png")
    if not quiet:
        show.scales(result.trace)
        show.times([result.trace])
    typer.echo(path)
