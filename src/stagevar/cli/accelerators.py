"""`stagevar accelerators`, `check` and `explain`."""

from __future__ import annotations

import json
from pathlib import Path
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
    """List accelerators: their fields, what they decide and combine with, what is claimed of them."""
    from stagevar.cli.show_accelerators import accelerators as show
    from stagevar.listing import listed
    from stagevar.registry import broken, known

    rows = [listed(cls) for cls in known().values()]
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in rows]))
    else:
        show(rows)
    for origin, reason in broken().items():
        typer.echo(f"left out: {origin}: {reason}", err=True)


@app.command()
def check(
    accelerator: Annotated[
        str, typer.Argument(metavar="NAME", help="Such as 'drop_last(1)', or a Python file that defines accelerators.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Try an accelerator's promises on small networks of all families.

    Exits with 0 if everything holds, with 1 if something does not.
    """
    from stagevar.cli.progress import counter
    from stagevar.cli.show_accelerators import checked
    from stagevar.families.catalogue import FAMILIES
    from stagevar.measure.check.check import check as tried
    from stagevar.measure.check.promises import PROMISES
    from stagevar.registry import known, of_file, parse

    own = of_file(Path(accelerator)) if accelerator.endswith(".py") else {}
    among = {**known(), **own}
    reports = []
    for each in [parse(text, among) for text in own or [accelerator]]:
        with counter(each.name, len(FAMILIES) * len(PROMISES), quiet=as_json) as advance:
            reports.append(tried(each, among=among, progress=advance))
    if as_json:
        typer.echo(json.dumps([report.to_json() for report in reports]))
    else:
        for report in reports:
            checked(report)
    raise typer.Exit(int(not all(report.ok for report in reports)))


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
    from stagevar.cli.show_accelerators import explanation
    from stagevar.loading.sources import outline
    from stagevar.measure.predict.explain import explain as explained
    from stagevar.request import Request

    sides = read_size(size, width, height, aspect_ratio, strict=strict)
    outlined = outline(Place(model, weights, revision=revision).resolve())
    answer = explained(outlined, accelerator, **sides, text_length=text_length)
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        explanation(answer)
    show.size(outlined, Request("any", **sides), aside=as_json)
