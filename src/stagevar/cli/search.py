"""`stagevar search`: plans of late scales, found under a budget of operations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stagevar.cli.options import (
    BatchOption,
    CaptionsOption,
    DeviceOption,
    DtypeOption,
    GuidanceOption,
    JsonOption,
    ModelOption,
    Place,
    PromptsOption,
    QuietOption,
    SizeOption,
    WeightsOption,
    app,
    read_numbers,
    read_place,
    read_prompts,
    read_size,
)


@app.command()
def search(
    budgets: Annotated[
        list[float] | None,
        typer.Option("--budget", help="How many times fewer operations [4]. Give several for a front."),
    ] = None,
    model: ModelOption = "scenes",
    captions: CaptionsOption = 48,
    held_out: Annotated[int, typer.Option("--held-out", min=2, help="Other captions, that figures are of.")] = 48,
    evaluations: Annotated[int, typer.Option(min=1, help="Plans that are tried per budget.")] = 400,
    genome: Annotated[str, typer.Option(help="rows, or depth: blocks per scale.")] = "rows",
    control: Annotated[bool, typer.Option("--control", help="Also try as many plans drawn at random.")] = False,
    prompts: PromptsOption = None,
    seed: Annotated[int, typer.Option(help="Of the first picture, and of the search.")] = 0,
    guidance: GuidanceOption = None,
    size: SizeOption = None,
    batch_size: BatchOption = 8,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of plans, figures, journal.")] = Path("search"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find plans of late scales for a budget of operations.

    Evolution tries plans on a few captions, the better ones on more; the figures are of other captions. A search that
    was stopped goes on where it was. -a "planned(file='search/plans.json', target=0)" draws by the fastest plan;
    another target is the SSIM that a plan has to reach, and the plain run is drawn where none does.
    """
    from stagevar.accelerators.planned import Planned
    from stagevar.cli.progress import best_so_far
    from stagevar.cli.show_search import found as show
    from stagevar.measure.search.report import JOURNAL, require_folder, write
    from stagevar.measure.search.search import Search
    from stagevar.measure.search.search import search as searched
    from stagevar.measure.study.plots import available
    from stagevar.request import Request

    available()
    weight, sides = read_numbers(guidance, "--guidance"), read_size(size, None, None, None, strict=False)
    lines, output = read_prompts(prompts), read_place(output, folder=True)
    require_folder(output)
    wanted = Search(
        budgets=tuple(budgets or (4.0,)),
        captions=captions,
        held_out=held_out,
        evaluations=evaluations,
        genome=genome,
        seed=seed,
        control=control,
        batch_size=batch_size,
        guidance=weight,
    )
    pipe = Place(model, weights, device, dtype).ready([Request("any", guidance_scale=weight, **sides)], prompts=lines)
    with best_so_far(evaluations, quiet=quiet) as told:
        outcome = searched(pipe, wanted, prompts=lines, journal=output / JOURNAL, told=told, **sides)
    files = write(output, outcome)
    use = str(Planned(str(files[0]), target=0.0))
    if as_json:
        typer.echo(json.dumps(outcome.report | {"use": use}))
    elif not quiet:
        show(outcome.report)
        for file in files:
            typer.echo(file)
        typer.echo(use)
