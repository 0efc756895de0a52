"""`stagevar study` and `calibrate`: what each scale of a model contributes, as a report or as a profile alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagevar.cli.fitting import fit, fittable
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
    read_file,
    read_numbers,
    read_place,
    read_prompts,
    read_size,
)
from stagevar.cli.progress import counter
from stagevar.errors import OptionError

if TYPE_CHECKING:
    import torch

    from stagevar.measure.likeness.scorer import Scorer
    from stagevar.measure.study.curves import Study
    from stagevar.pipeline import Pipeline
    from stagevar.profile import StageProfile

SeedOption = Annotated[int, typer.Option(help="Seed of the first picture; the others count up.")]
RanksOption = Annotated[int, typer.Option("--rank-prompts", min=1, help="Prompts whose hidden states are decomposed.")]
SemanticOption = Annotated[
    float, typer.Option("--semantic", min=0.01, max=1, help="Share of its curve that ends the semantic stage.")
]
StructureOption = Annotated[
    float, typer.Option("--structure", min=0.01, max=1, help="Share of its curve that ends the structure stage.")
]
EncoderOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Encoder of that name; adds a curve of likeness.")
]
NetworkOption = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Weights of that name; adds a curve. Once more for a trunk in its own file."),
]


@app.command()
def study(
    model: ModelOption = "scenes",
    captions: CaptionsOption = 64,
    prompts: PromptsOption = None,
    seed: SeedOption = 0,
    guidance: GuidanceOption = None,
    size: SizeOption = None,
    width: WidthOption = None,
    height: HeightOption = None,
    aspect_ratio: AspectOption = None,
    strict: StrictOption = False,
    batch_size: BatchOption = 8,
    rank_prompts: RanksOption = 12,
    semantic: SemanticOption = 0.95,
    structure: StructureOption = 0.9,
    clip: EncoderOption = None,
    dino: EncoderOption = None,
    lpips: NetworkOption = None,
    dists: NetworkOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    local_files_only: OfflineOption = False,
    offload: OffloadOption = False,
    quantize: QuantizeOption = None,
    max_memory: MemoryOption = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the report.")] = Path("study"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Study what each scale settles.

    Writes study.json, study.md, profile.json, plots and a sheet of intermediate pictures.
    """
    from stagevar.cli import show
    from stagevar.cli.sheet import contact_sheet
    from stagevar.files import replacing
    from stagevar.measure.study.plots import available
    from stagevar.measure.study.report import SHEET, require_folder, write_report
    from stagevar.request import Request

    available()
    lines, output = read_prompts(prompts, captions), read_place(output, folder=True)
    require_folder(output)
    sides: dict[str, Any] = read_size(size, width, height, aspect_ratio, strict=strict)
    weight = read_numbers(guidance, "--guidance")
    asked = Request("any", guidance_scale=weight, **sides)
    place = Place(model, weights, device, dtype, revision, local_files_only, offload, quantize, max_memory)
    pipe = place.ready([asked], prompts=lines)
    found, profile = _measured(
        pipe,
        _texts(pipe, lines, captions),
        seed=seed,
        guidance=weight,
        sides=sides,
        scorers=partial(_scorers, clip, dino, lpips, dists),
        batch_size=batch_size,
        rank_prompts=rank_prompts,
        reaches=(semantic, structure),
        quiet=quiet,
    )
    files = write_report(found, profile, output)
    sheet = output / f"{SHEET}.png"
    columns = list(zip(found.grids, found.samples, strict=True))
    with replacing(sheet) as temporary:
        contact_sheet(found.prompts[: len(found.samples[0])], columns).save(temporary, format="png")
    if as_json:
        names = [str(path) for path in (*files, sheet)]
        typer.echo(json.dumps({"files": names, "profile": profile.to_dict(), **found.to_dict(values=False)}))
    elif not quiet:
        show.profile(profile)
        typer.echo(output)
    if not quiet:
        show.size(pipe.model, asked, aside=as_json)


@app.command()
def calibrate(
    model: ModelOption = "scenes",
    captions: CaptionsOption = 64,
    prompts: PromptsOption = None,
    seed: SeedOption = 0,
    guidance: GuidanceOption = None,
    batch_size: BatchOption = 8,
    rank_prompts: RanksOption = 32,
    semantic: SemanticOption = 0.95,
    structure: StructureOption = 0.9,
    dial_prompts: Annotated[int, typer.Option(min=0, help="Prompts that the dial is measured on; 0 leaves it.")] = 16,
    ssim: Annotated[float | None, typer.Option(min=0.01, max=1, help="Wanted SSIM: prints the quality for it.")] = None,
    accelerator: Annotated[str | None, typer.Option("--accelerator", "-a", help="Fits its numbers instead.")] = None,
    size: SizeOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    local_files_only: OfflineOption = False,
    offload: OffloadOption = False,
    quantize: QuantizeOption = None,
    max_memory: MemoryOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File [profile.json or NAME.json].")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model's stages, ranks and dial, or fit an accelerator to it.

    Writes them as a profile, by the same rules as `study` and without its plots. The dial is what each quality of the
    accelerator `stagevar` costs, and how close it comes to the plain run. With --accelerator a file of its fitted
    numbers is written, for this model and size, and the text that uses it is printed.
    """
    from dataclasses import replace

    from stagevar.cli import show
    from stagevar.measure.bench.dial import QUALITIES, measure_dial
    from stagevar.measure.study.fitting import require_enough
    from stagevar.request import Request
    from stagevar.saved import kind_of

    if ssim is not None and not dial_prompts:
        raise OptionError("--ssim needs a measured dial; leave out --dial-prompts 0")
    fits = None if accelerator is None else fittable(accelerator)
    if fits is not None and ssim is not None:
        raise OptionError("--ssim is for the dial of a profile; leave it out with --accelerator")
    name = "profile" if fits is None else fits.name
    kind = "stagevar profile" if fits is None else "stagevar fit"
    output = read_file(output or Path(f"{name}.json"), lambda path: kind_of(path) == kind)
    lines = read_prompts(prompts, captions)
    if fits is not None:
        require_enough(len(lines) or captions)
    weight, sides = read_numbers(guidance, "--guidance"), read_size(size, None, None, None, strict=False)
    asked = Request("any", guidance_scale=weight, **sides)
    place = Place(model, weights, device, dtype, revision, local_files_only, offload, quantize, max_memory)
    pipe = place.ready([asked], prompts=lines)
    texts = _texts(pipe, lines, captions)
    options: dict[str, Any] = {"seed": seed, "guidance": weight, "batch_size": batch_size}
    if fits is not None:
        fit(pipe, fits, texts, output, options | sides, as_json=as_json, quiet=quiet)
        return
    _, profile = _measured(
        pipe, texts, sides=sides, rank_prompts=rank_prompts, reaches=(semantic, structure), quiet=quiet, **options
    )
    chosen = texts[:dial_prompts]
    if chosen:
        with counter("dial", len(chosen) * (len(QUALITIES) + 1), quiet=quiet) as advance:
            dial = measure_dial(pipe, chosen, **options, **sides, progress=advance)
        profile = replace(profile, dial=dial)
    profile.save(output)
    text = None if ssim is None else f"stagevar(quality={profile.quality(ssim):.3f})"
    if as_json:
        typer.echo(json.dumps(profile.to_dict() | ({} if text is None else {"accelerator": text})))
    elif not quiet:
        show.profile(profile)
        typer.echo(output)
    if text is not None and not as_json:
        typer.echo(text)


def _texts(pipe: Pipeline, lines: list[str], count: int) -> list[str]:
    """The prompts of a file, or ``count`` questions for the model if there are none."""
    from stagevar.measure.suites.known import questions_for

    return lines or [question.caption for question in questions_for(pipe.model, count)]


Scorers = Callable[["torch.device"], dict[str, "Scorer"]]


def _scorers(
    clip: Path | None, dino: Path | None, lpips: list[Path] | None, dists: list[Path] | None, device: torch.device
) -> dict[str, Scorer]:
    """The learned scorers whose weights are given."""
    from stagevar.measure.likeness import embeddings, perceptual

    scorers: dict[str, Scorer] = {}
    if clip is not None:
        scorers["clip"] = embeddings.clip(clip, device)
    if dino is not None:
        scorers["dino"] = embeddings.dino(dino, device)
    if lpips:
        scorers["lpips"] = perceptual.lpips(lpips, device)
    if dists:
        scorers["dists"] = perceptual.dists(dists, device)
    return scorers


def _measured(
    pipe: Pipeline,
    prompts: list[str],
    *,
    seed: int,
    guidance: float | tuple[float, ...] | None,
    batch_size: int,
    rank_prompts: int,
    reaches: tuple[float, float],
    quiet: bool,
    sides: dict[str, Any] | None = None,
    scorers: Scorers | None = None,
) -> tuple[Study, StageProfile]:
    from stagevar.measure.study.stages import profile as settle
    from stagevar.measure.study.study import study as look

    likeness = scorers and scorers(pipe.model.device)
    with counter("pictures", len(prompts), quiet=quiet) as advance:
        found = look(
            pipe,
            prompts,
            seed=seed,
            guidance=guidance,
            **(sides or {}),
            batch_size=batch_size,
            rank_prompts=rank_prompts,
            scorers=likeness,
            progress=advance,
        )
    return found, settle(found, *reaches)
