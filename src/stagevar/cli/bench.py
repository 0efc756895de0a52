"""`stagevar compare` and `score`: accelerators side by side, and a model against its suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from stagevar.cli.options import (
    AspectOption,
    BatchOption,
    CaptionsOption,
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
from stagevar.errors import OptionError


@app.command()
def compare(
    accelerators: Annotated[list[str], typer.Argument(metavar="ACCELERATOR", help="Such as 'drop_last(1)'.")],
    model: ModelOption = "scenes",
    captions: CaptionsOption = 60,
    prompts: PromptsOption = None,
    guidance: GuidanceOption = None,
    size: SizeOption = None,
    width: WidthOption = None,
    height: HeightOption = None,
    aspect_ratio: AspectOption = None,
    strict: StrictOption = False,
    seed: Annotated[int, typer.Option(help="Seed of the first picture; the others count up.")] = 0,
    batch_size: BatchOption = 16,
    parts: Annotated[
        bool, typer.Option("--parts", help="Also measure latency by part, in batches of its own.")
    ] = False,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    local_files_only: OfflineOption = False,
    offload: OffloadOption = False,
    quantize: QuantizeOption = None,
    max_memory: MemoryOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder of table, JSON and plots.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run accelerators side by side on the same captions.

    The plain run is always the first row; speed-up and closeness are relative to it. With --quantize the first row is
    the plain run of the unrounded weights, so that `none` says what rounding costs.
    """
    from dataclasses import replace

    from stagevar.cli import show
    from stagevar.cli.progress import counter
    from stagevar.measure.bench.compare import compare as measure
    from stagevar.measure.bench.table import write
    from stagevar.measure.study.plots import available
    from stagevar.request import Request

    if parts and quantize:
        raise OptionError("--parts measures one set of weights; leave out --quantize")
    lines, weight = read_prompts(prompts, captions), read_numbers(guidance, "--guidance")
    sides: dict[str, Any] = read_size(size, width, height, aspect_ratio, strict=strict)
    if output is not None:
        available()
        output = read_place(output, folder=True)
    place = Place(model, weights, device, dtype, revision, local_files_only, offload, quantize, max_memory)
    asked = [Request("any", accelerator=text, guidance_scale=weight, **sides) for text in accelerators]
    pipe = place.ready(asked, prompts=lines)
    reference = replace(place, quantize=None, max_memory=None).load() if quantize else None
    count = len(lines) or captions
    with counter("captions", count, quiet=quiet) as advance:
        comparison = measure(
            pipe,
            accelerators,
            captions=count,
            prompts=lines,
            guidance=weight,
            seed=seed,
            batch_size=batch_size,
            parts=parts,
            reference=reference,
            progress=advance,
            **sides,
        )
    files = [] if output is None else write(output, comparison)
    if as_json:
        typer.echo(json.dumps(comparison))
    elif not quiet:
        show.comparison(comparison)
        for file in files:
            typer.echo(file)
    if not quiet:
        show.size(pipe.model, asked[0], aside=as_json)


@app.command()
def score(
    model: ModelOption = "scenes",
    captions: CaptionsOption = 600,
    guidance: GuidanceOption = None,
    accelerator: Annotated[str, typer.Option("--accelerator", "-a", help="As in `generate`.")] = "none",
    seed: Annotated[int, typer.Option(help="Seed of the first picture; the others count up.")] = 0,
    batch_size: BatchOption = 16,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    quantize: QuantizeOption = None,
    max_memory: MemoryOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a model on the captions of its own suite.

    Has the suite's reader judge the pictures, the categories in turn.
    """
    from stagevar.cli import show
    from stagevar.cli.progress import counter
    from stagevar.measure.suites.score import score as measure

    pipe = Place(model, weights, device, dtype, quantize=quantize, max_memory=max_memory).load()
    weight = read_numbers(guidance, "--guidance")
    with counter("pictures", captions, quiet=quiet) as advance:
        scores = measure(
            pipe,
            captions=captions,
            guidance=weight,
            seed=seed,
            batch_size=batch_size,
            progress=advance,
            accelerator=accelerator,
        )
    if as_json:
        typer.echo(json.dumps(scores))
    else:
        show.scores(scores)
