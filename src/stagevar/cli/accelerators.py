"""`stagevar accelerators` and `explain`."""

from __future__ import annotations

import inspect
import json
from dataclasses import MISSING, fields
from typing import Annotated

import typer

from stagevar.cli.options import (
    AspectOption,
    HeightOption,
    JsonOption,
    ModelOption,
    Place,
    RevisionOption,
    SizeOption,
    StrictOption,
    WeightsOption,
    WidthOption,
    app,
    read_size,
)


@app.command()
def accelerators(as_json: JsonOption = False) -> None:
    """List accelerators and their fields."""
    from stagevar.cli import show
    from stagevar.registry import broken, known

    rows = [
        {
            "name": name,
            "fields": {f.name: "..." if f.default is MISSING else repr(f.default) for f in fields(cls)},
            "online": cls.online is True,
            "about": " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()),
        }
        for name, cls in known().items()
    ]
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        show.accelerators(rows)
    for origin, reason in broken().items():
        typer.echo(f"left out: {origin}: {reason}", err=True)


@app.command()
def explain(
    accelerator: Annotated[str, typer.Option("--accelerator", "-a", help="Such as 'drop_last(1)'; sums with +.")],
    model: ModelOption = "scenes",
    size: SizeOption = None,
    width: WidthOption = None,
    height: HeightOption = None,
    aspect_ratio: AspectOption = None,
    strict: StrictOption = False,
    weights: WeightsOption = None,
    revision: RevisionOption = None,
    text_length: Annotated[int | None, typer.Option(min=1, help="Text tokens of a prompt.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a plan and what it saves; no weights needed.

    The gain is predicted from operations: memory traffic, launches, sampling, text and decoding are not in it.
    """
    from stagevar.cli import show
    from stagevar.loading.sources import outline
    from stagevar.measure.predict.explain import explain as explained
    from stagevar.request import Request

    sides = read_size(size, width, height, aspect_ratio, strict=strict)
    outlined = outline(Place(model, weights, revision=revision).resolve())
    answer = explained(outlined, accelerator, **sides, text_length=text_length)
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        show.explanation(answer)
    show.size(outlined, Request("any", **sides), aside=as_json)
