"""`stagevar models`, `convert` and `doctor`: what there is, and getting it ready."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from stagevar.cli.options import (
    AcceleratorOption,
    AspectOption,
    DeviceOption,
    DtypeOption,
    GuidanceOption,
    HeightOption,
    JsonOption,
    MemoryOption,
    OfflineOption,
    OffloadOption,
    Place,
    QuantizeOption,
    RevisionOption,
    SizeOption,
    StrictOption,
    WeightsOption,
    WidthOption,
    app,
    read_numbers,
    read_size,
)


@app.command()
def models(
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of support in the README.")] = False,
    rewrite: Annotated[Path | None, typer.Option(help="Document whose table of support is renewed.")] = None,
) -> None:
    """List sizes, sources of weights, what is on disk."""
    from stagevar.cli import show
    from stagevar.families.catalogue import entries
    from stagevar.loading.available import on_disk
    from stagevar.measure.predict import support

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


SourceArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name of `stagevar models`, a folder, a file or a hub repository.")
]


@app.command()
def convert(
    source: SourceArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write: new, empty, or a model of ours.")],
    dtype: Annotated[str, typer.Option(help="Of blocks and text encoders: float32, bfloat16, float16.")] = "float32",
    weights: WeightsOption = None,
    revision: RevisionOption = None,
    local_files_only: OfflineOption = False,
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="Copy the text encoders too, or fetch them from the hub at load.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Write a model as one folder that loads by itself.

    The folder holds config.json, model.safetensors and the text encoders.
    """
    from stagevar.loading.convert import convert as write
    from stagevar.loading.place import read_dtype
    from stagevar.loading.read import load_config
    from stagevar.loading.where import Where

    folder = folder.expanduser()
    where = Where(revision=revision, local_files_only=local_files_only)
    model = write(source, folder, weights=weights, dtype=read_dtype(dtype), copy_text=text, where=where)
    names = load_config(folder)["files"]
    size = sum((folder / name).stat().st_size for name in names)
    if as_json:
        typer.echo(json.dumps({"model": model.name, "folder": str(folder), "files": names, "bytes": size}))
    else:
        typer.echo(f"{model.name}: {len(names)} files, {size / 1e9:.3g} GB in {folder}; load it with -m {folder}")


@app.command()
def doctor(
    source: SourceArgument = "scenes",
    size: SizeOption = None,
    width: WidthOption = None,
    height: HeightOption = None,
    aspect_ratio: AspectOption = None,
    strict: StrictOption = False,
    batch: Annotated[int, typer.Option("--batch", "--batch-size", min=1, help="Pictures at once.")] = 1,
    guidance: GuidanceOption = None,
    negative: Annotated[str | None, typer.Option(help="As in `generate`.")] = None,
    temperature: Annotated[str | None, typer.Option(help="As in `generate`.")] = None,
    top_k: Annotated[int | None, typer.Option(help="As in `generate`.")] = None,
    top_p: Annotated[float | None, typer.Option(help="As in `generate`.")] = None,
    smooth: Annotated[bool | None, typer.Option(help="As in `generate`.")] = None,
    accelerator: AcceleratorOption = "none",
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    offload: OffloadOption = False,
    quantize: QuantizeOption = None,
    max_memory: MemoryOption = None,
    weights: WeightsOption = None,
    revision: RevisionOption = None,
    local_files_only: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a model needs before it is loaded.

    Downloads, licence, disk and memory; exits with 1 if something is missing, or could not be found out.
    """
    from dataclasses import asdict

    from stagevar.calling import expand
    from stagevar.cli import show
    from stagevar.loading.place import read_device, read_dtype, read_quantize
    from stagevar.loading.sources import outline
    from stagevar.measure.predict.doctor import diagnose
    from stagevar.memory.limit import read_amount

    [request] = expand(
        "any",
        negative_prompt=negative,
        **read_size(size, width, height, aspect_ratio, strict=strict),
        guidance_scale=read_numbers(guidance, "--guidance"),
        temperature=read_numbers(temperature, "--temperature"),
        top_k=top_k,
        top_p=top_p,
        smooth=smooth,
        accelerator=accelerator,
        seed=0,
    )
    on = read_device(device)
    settings: dict[str, Any] = {"dtype": read_dtype(dtype, on), "device": on, "quantize": read_quantize(quantize)}
    settings["max_memory"] = read_amount(max_memory)
    meant = Place(source, weights, revision=revision, local_files_only=local_files_only).resolve()
    found = diagnose(meant, request, batch, offload_text_encoder=offload, **settings)
    if as_json:
        totals = {name: getattr(found, name) for name in ("download", "need", "troubles", "ready")}
        typer.echo(json.dumps(asdict(found) | totals | {"peak": found.run.peak}))
    else:
        show.diagnosis(found)
    show.size(outline(meant), request, aside=as_json)
    raise typer.Exit(int(not found.ready))
