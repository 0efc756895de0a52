"""Commands about accelerators: what there is, what a plan will do, and how they fare side by side."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from stagevar.cli.app import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    QuietOption,
    SizeOption,
    WeightsOption,
    app,
    load_pipeline,
    read_size,
)
from stagevar.errors import MissingFileError, OptionError


@app.command()
def accelerators(as_json: JsonOption = False) -> None:
    """List accelerators and their fields."""
    from stagevar.cli import show
    from stagevar.registry import known

    rows = [
        {
            "name": name,
            "fields": {f.name: repr(f.default) for f in fields(cls)},
            "online": cls.online is True,
            "about": " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()),
        }
        for name, cls in known().items()
    ]
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        show.accelerators(rows)


@app.command()
def explain(
    accelerator: Annotated[str, typer.Option("--accelerator", "-a", help="Such as 'drop_last(1)'; sums with +.")],
    model: ModelOption = "scenes",
    size: SizeOption = None,
    text_length: Annotated[int | None, typer.Option(min=1, help="Text tokens of a prompt.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a plan and what it saves; no weights needed.

    The gain is predicted from operations: memory traffic, launches, sampling, text and decoding are not in it.
    """
    from stagevar.cli import show
    from stagevar.measure.explain import explain as explained
    from stagevar.models.sources import skeleton

    height, width = read_size(size)
    answer = explained(skeleton(model), accelerator, height=height, width=width, text_length=text_length)
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        show.explanation(answer)


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
    from stagevar.measure.compare import compare as measure
    from stagevar.measure.comparison import write
    from stagevar.measure.plots import available
    from stagevar.registry import parse

    height, width = read_size(size)
    for text in accelerators:
        parse(text)
    if output is not None:
        available()
    lines = [] if prompts is None else _lines(prompts)
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


def _lines(path: Path) -> list[str]:
    """The prompts of a file, one per line."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFileError(f"cannot read prompts {path}: {getattr(error, 'strerror', None) or error}") from None
    if not lines:
        raise OptionError(f"{path} holds no prompt; write one per line")
    return lines
