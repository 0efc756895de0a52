"""`stagevar bench`, `compare` and `score`: accelerators side by side, and a model against its suite."""

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
from stagevar.errors import OptionError, RequestError

COMPARISON = "stagevar comparison 1"


@app.command()
def bench(
    config: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Settings; every option but files and places is a key of it.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="As in `generate`; several are allowed.")
    ] = None,
    accelerators: Annotated[
        list[str] | None, typer.Option("--accelerator", "-a", help="Such as 'drop_last(1)'; several are allowed.")
    ] = None,
    sizes: Annotated[list[str] | None, typer.Option("--size", metavar="WxH", help="Several are allowed.")] = None,
    batches: Annotated[list[int] | None, typer.Option("--batch-size", min=1, help="Several are allowed.")] = None,
    captions: Annotated[int | None, typer.Option(min=1, help="How many captions [60].")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Pictures of each caption [1].")] = None,
    prompts: PromptsOption = None,
    guidance: Annotated[float | None, typer.Option(help="Weight of the prompt.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first picture [0]; the others count up.")] = None,
    lpips: Annotated[list[str] | None, typer.Option(metavar="FILE", help="LPIPS weights: one file or two.")] = None,
    shown: Annotated[int | None, typer.Option(min=0, help="Captions whose pictures are in the report [3].")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 (bf16) or float16 (fp16).")] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="REPORT", help="Folder or bench.json of an earlier run, to compare with.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the report.")] = Path("bench"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure models x accelerators x sizes x batches, and write a report.

    Every batch is drawn by all accelerators in turn and noted at once: a run that was stopped goes on where it was. All
    combinations are checked before anything is drawn.
    """
    from dataclasses import replace

    from stagevar.cli import show
    from stagevar.cli.progress import counted
    from stagevar.measure.bench.against import against as compared
    from stagevar.measure.bench.bench import bench as measure
    from stagevar.measure.bench.bench import read_report
    from stagevar.measure.bench.matrix import Matrix
    from stagevar.measure.bench.report import require_folder, write
    from stagevar.measure.likeness.perceptual import lpips as read_lpips
    from stagevar.measure.study.plots import available
    from stagevar.request import Request

    available()
    lists = {"models": models, "accelerators": accelerators, "sizes": sizes, "batches": batches, "lpips": lpips}
    given: dict[str, Any] = {name: tuple(value) for name, value in lists.items() if value}
    given |= {"captions": captions, "seeds": seeds, "guidance": guidance, "seed": seed, "shown": shown}
    given |= {"prompts": None if prompts is None else str(prompts), "device": device, "dtype": dtype}
    settings = {name: value for name, value in given.items() if value is not None}
    matrix = replace(Matrix.read(config), **settings) if config else Matrix(**settings)
    lines = read_prompts(Path(matrix.prompts), matrix.captions) if matrix.prompts else []
    output, before = read_place(output, folder=True), None if against is None else read_report(against, matrix)
    require_folder(output)
    places = {name: Place(name, device=matrix.device, dtype=matrix.dtype) for name in matrix.models}
    scorers = {"lpips": read_lpips([Path(file).expanduser() for file in matrix.lpips])} if matrix.lpips else {}
    for name, place in places.items():
        every = [sides(size) for size in matrix.sizes or ("",)]
        texts = [*matrix.accelerators, "none"]
        asked = [
            Request("any", accelerator=text, guidance_scale=matrix.guidance, **own) for text in texts for own in every
        ]
        try:
            place.checked(asked)
        except RequestError as error:
            raise type(error)(f"{name}: {error}") from error
    with counted(quiet=quiet) as told:
        report, pictures = measure(
            matrix,
            lambda name: places[name].ready([], prompts=lines),
            output,
            prompts=lines,
            sides=sides,
            scorers=scorers,
            told=told,
        )
    files = write(output, report, pictures, compared(report, before) if before else "")
    if as_json:
        typer.echo(json.dumps(report))
    elif not quiet:
        for cell in report["cells"]:
            show.comparison(cell)
        for file in files:
            typer.echo(file)


def sides(size: str) -> dict[str, Any]:
    """The fields of a request for a size; those of the model's own for an empty text."""
    return read_size(size, None, None, None, strict=False) if size else {}


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

    The short form of `bench`: one model, size and batch. The plain run is always the first row; speed-up and closeness
    are relative to it. With --quantize the first row is the plain run of the unrounded weights, so that `none` says
    what rounding costs.
    """
    from dataclasses import replace

    from stagevar.cli import show
    from stagevar.cli.progress import counter
    from stagevar.measure.bench.compare import compare as measure
    from stagevar.measure.bench.front import QUALITIES
    from stagevar.measure.bench.table import write
    from stagevar.measure.study.plots import available
    from stagevar.request import Request
    from stagevar.saved import require_results

    if parts and quantize:
        raise OptionError("--parts measures one set of weights; leave out --quantize")
    lines, weight = read_prompts(prompts, captions), read_numbers(guidance, "--guidance")
    sides: dict[str, Any] = read_size(size, width, height, aspect_ratio, strict=strict)
    if output is not None:
        available()
        output = read_place(output, folder=True)
        names = "compare.json", "compare.md", *(f"compare-{quality}.png" for quality in QUALITIES)
        require_results([output / name for name in names], "stagevar comparison")
    place = Place(model, weights, device, dtype, revision, local_files_only, offload, quantize, max_memory)
    asked = [Request("any", accelerator=text, guidance_scale=weight, **sides) for text in accelerators]
    pipe = place.ready(asked, prompts=lines)
    reference = replace(place, quantize=None, max_memory=None).load() if quantize else None
    count = len(lines) or captions
    with counter("captions", count, quiet=quiet) as advance:
        comparison = {"format": COMPARISON} | measure(
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
