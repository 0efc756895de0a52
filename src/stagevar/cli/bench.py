"""`stagevar compare` and `score`: accelerators side by side, and a model against its oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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
    read_prompts,
    read_size,
)


@app.command()
def compare(
    accelerators: Annotated[list[str], typer.Argument(metavar="ACCELERATOR", help="Such as 'drop_last(1)'.")],
    model: ModelOption = "scenes",
    captions: Annotated[int, typer.Option(min=1, help="Pictures per accelerator.")] = 60,
    prompts: Annotated[Path | None, typer.Option(help="File with a prompt per line, taken in turn.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Weight of the prompt.")] = None,
    size: SizeOption = None,
    seed: Annotated[int, typer.Option(help="Of the first picture; counted up.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")] = 16,
    parts: Annotated[
        bool, typer.Option("--parts", help="Also measure latency by part, in batches of its own.")
    ] = False,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder of table, JSON and plots.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run accelerators side by side on the same captions.

    The plain run is always the first row; speed-up and closeness are relative to it.
    """
    from stagevar.cli import show
    from stagevar.measure.bench.compare import compare as measure
    from stagevar.measure.bench.table import write
    from stagevar.measure.study.plots import available
    from stagevar.registry import parse

    height, width = read_size(size)
    for text in accelerators:
        parse(text)
    if output is not None:
        available()
    lines = [] if prompts is None else read_prompts(prompts)
    pipe = load_pipeline(model, weights, device, dtype)
    with show.counter("captions", captions, quiet=quiet) as advance:
        comparison = measure(
            pipe,
            accelerators,
            captions=captions,
            prompts=lines,
            guidance=guidance,
            seed=seed,
            batch_size=batch_size,
            height=height,
            width=width,
            parts=parts,
            progress=advance,
        )
    files = [] if output is None else write(output, comparison)
    if as_json:
        typer.echo(json.dumps(comparison))
    elif not quiet:
        show.comparison(comparison)
        for file in files:
            typer.echo(file)


@app.command()
def score(
    model: ModelOption = "scenes",
    captions: Annotated[int, typer.Option(min=1, help="Number of captions, the six categories in turn.")] = 600,
    guidance: Annotated[float | None, typer.Option(help="Weight of the prompt.")] = None,
    seed: Annotated[int, typer.Option(help="Of captions and pictures.")] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a model of the scenes world.

    Draws held-out captions and has the oracle read the pictures.
    """
    from stagevar.cli import show
    from stagevar.measure.suites.score import score as measure

    pipe = load_pipeline(model, None, device)
    with show.counter("pictures", captions, quiet=quiet) as advance:
        scores = measure(pipe, captions=captions, guidance=guidance, seed=seed, progress=advance)
    if as_json:
        typer.echo(json.dumps(scores))
    else:
        show.scores(scores)
