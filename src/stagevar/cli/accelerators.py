"""`stagevar accelerators` and `explain`."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from typing import Annotated

import typer

from stagevar.cli.options import JsonOption, ModelOption, SizeOption, app, read_size


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
    from stagevar.loading.sources import skeleton
    from stagevar.measure.predict.explain import explain as explained

    height, width = read_size(size)
    answer = explained(skeleton(model), accelerator, height=height, width=width, text_length=text_length)
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        show.explanation(answer)
