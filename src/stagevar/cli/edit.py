"""`stagevar edit`: pictures from a picture and a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    Place,
    QuantizeOption,
    QuietOption,
    RevisionOption,
    SizeOption,
    StrictOption,
    WeightsOption,
    WidthOption,
    app,
    read_numbers,
    read_size,
    read_whole_numbers,
)


@app.command()
def edit(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="The picture to begin with.")],
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="[PROMPT]",
            help="What the picture is to show, in quotes; models that restore need none.",
            show_default=False,
        ),
    ] = "",
    mask: Annotated[
        Path | None, typer.Option(help="Picture of the same size: what is white, or transparent, is drawn.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Share of the scales that are drawn, 0 to 1.", show_default="1 with a mask, else 0.5"),
    ] = None,
    soft_edge: Annotated[float | None, typer.Option(help="Pixels by which the mask grows at fine scales.")] = None,
    expand: Annotated[
        str | None, typer.Option(metavar="PIXELS", help="Draw around the picture: a number, or left,top,right,bottom.")
    ] = None,
    upscale: Annotated[float | None, typer.Option(help="Enlarge the sides by this factor.")] = None,
    fit: Annotated[
        str | None,
        typer.Option(metavar="crop|pad|stretch", help="Where ratios differ.", show_default="crop; pad with --expand"),
    ] = None,
    model: ModelOption = "scenes",
    count: CountOption = 1,
    seed: SeedOption = None,
    guidance: GuidanceOption = None,
    negative: NegativeOption = None,
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
    output: PicturesOption = Path("out"),
    trace: TraceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw a picture anew, or a part of it, or restore it with a model that does.

    Without a mask the coarse scales of the picture are kept and the fine ones drawn. With a mask, all that is outside
    of it keeps its codes.
    """
    from stagevar.calling import expand as requests_of
    from stagevar.cli.work import produce

    requests = requests_of(
        prompt,
        image=picture,
        mask=mask,
        strength=strength,
        soft_edge=soft_edge,
        expand=read_whole_numbers(expand, "--expand"),
        upscale=upscale,
        fit=fit,
        negative_prompt=negative,
        num_images_per_prompt=count,
        **read_size(size, width, height, aspect_ratio, strict=strict),
        guidance_scale=read_numbers(guidance, "--guidance"),
        temperature=read_numbers(temperature, "--temperature"),
        top_k=read_whole_numbers(top_k, "--top-k"),
        top_p=read_numbers(top_p, "--top-p"),
        smooth=smooth,
        accelerator=accelerator,
        seed=seed,
    )
    place = Place(
        model, weights, device, dtype, revision, local_files_only, offload, quantize, max_memory, encoder=True
    )
    produce(requests, place, output, trace, batch_size=batch_size, as_json=as_json, quiet=quiet)
