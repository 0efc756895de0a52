"""The commands. Each imports what it needs when it runs, so that ``--help`` loads no torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from stagevar import __version__
from stagevar.errors import Cancelled, MissingFileError, OptionError, SizeError, StagevarError

if TYPE_CHECKING:
    from PIL.Image import Image

    from stagevar.pipeline import Pipeline
    from stagevar.request import ScaleEvent


class Group(TyperGroup):
    """Commands that an interrupt ends with an error of ours."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Cancelled("interrupted; pictures that were finished are kept") from None


app = typer.Typer(
    cls=Group,
    help="Draw pictures with next-scale visual autoregressive models.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stagevar {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, as STAGEVAR_DEBUG=1 does.")] = False,
) -> None:
    if debug:
        os.environ["STAGEVAR_DEBUG"] = "1"
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


ModelOption = Annotated[str, typer.Option("--model", "-m", help="A name of `stagevar models`, or a folder.")]
WeightsOption = Annotated[Path | None, typer.Option(help="Folder with a listed model's files, instead of the hub.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SizeOption = Annotated[str | None, typer.Option(metavar="HxW", help="Height and width in pixels.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")]


def load_pipeline(model: str, weights: Path | None, device: str, dtype: str = "auto") -> Pipeline:
    """The model of the options."""
    from stagevar.pipeline import Pipeline

    return Pipeline.from_pretrained(model, weights=weights, device=device, dtype=dtype)


def read_numbers(text: str | None, option: str) -> float | list[float] | None:
    """One number, or one per scale separated by commas."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"{option} takes a number, or one per scale separated by commas, not {text!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers


def read_size(text: str | None) -> tuple[int | None, int | None]:
    """Height and width of ``--size``."""
    if text is None:
        return None, None
    sides = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text)
    if sides is None:
        raise SizeError(f"--size takes height x width in pixels, such as 64x64, not {text!r}")
    return int(sides[1]), int(sides[2])


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
    from stagevar.cli import show
    from stagevar.cli.pictures import write
    from stagevar.measure.trace import write as write_traces
    from stagevar.request import expand

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


@app.command()
def models(
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of support in the README.")] = False,
    rewrite: Annotated[Path | None, typer.Option(help="Document whose table of support is renewed.")] = None,
) -> None:
    """List sizes, sources of weights, what is on disk."""
    from stagevar.cli import show
    from stagevar.measure import support
    from stagevar.models.catalogue import entries, on_disk

    if rewrite is not None:
        typer.echo(f"{rewrite}: {'renewed' if support.rewrite(rewrite) else 'up to date'}")
        return
    if markdown:
        typer.echo(support.table(), nl=False)
        return
    rows = [
        {
            "name": entry.name,
            "family": entry.family,
            "parameters": entry.parameters,
            "sources": list(entry.sources),
            "files": list(entry.files),
            "licence": entry.licence,
            "on_disk": on_disk(entry.name),
            "note": entry.note,
        }
        for entry in entries()
    ]
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        show.models(rows)


@app.command()
def conform(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Conformance sets, or folders of sets.")],
    as_json: JsonOption = False,
) -> None:
    """Check the engine against conformance sets.

    Exits with 0 only if all tensors of all sets hold, with 1 if one does not, and with the code of the error if a set
    cannot be checked.
    """
    from stagevar.cli import show
    from stagevar.measure.conform import conform as check

    all_hold, failed = True, 0
    for folder in _sets(folders):
        try:
            report = check(folder)
        except StagevarError as error:
            failed = failed or error.exit_code
            typer.echo(f"error: {error}", err=True)
            if as_json:
                typer.echo(json.dumps({"set": folder.resolve().name, "ok": False, "error": str(error)}))
            continue
        all_hold &= report.ok
        if as_json:
            typer.echo(json.dumps(report.to_json()))
        else:
            show.conformance(report)
    raise typer.Exit(failed or int(not all_hold))


def _sets(folders: list[Path]) -> list[Path]:
    """The folders themselves where they are sets, else the sets in them."""
    sets: list[Path] = []
    for folder in folders:
        if os.path.isfile(folder / "config.json"):  # noqa: PTH113 - unlike Path.is_file, never raises
            sets.append(folder)
            continue
        inside = sorted(path.parent for path in folder.glob("*/config.json"))
        if not inside:
            raise MissingFileError(f"{folder} is no conformance set and holds none; a set has a config.json")
        sets += inside
    return sets


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
    from stagevar.measure.score import score as measure

    pipe = load_pipeline(model, None, device)
    with show.counter("pictures", captions, quiet=quiet) as advance:
        scores = measure(pipe, captions=captions, guidance=guidance, seed=seed, progress=advance)
    if as_json:
        typer.echo(json.dumps(scores))
    else:
        show.scores(scores)
