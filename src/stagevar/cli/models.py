"""`stagevar models`, `convert` and `doctor`: what there is, and getting it ready."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stagevar.cli.options import DeviceOption, DtypeOption, JsonOption, SizeOption, WeightsOption, app, read_size


@app.command()
def models(
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of support in the README.")] = False,
    rewrite: Annotated[Path | None, typer.Option(help="Document whose table of support is renewed.")] = None,
) -> None:
    """List sizes, sources of weights, what is on disk."""
    from stagevar.cli import show
    from stagevar.families.catalogue import entries
    from stagevar.loading.sources import on_disk
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

RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of the network's repository.")]

OfflineOption = Annotated[bool, typer.Option("--local-files-only", help="Download nothing.")]


@app.command()
def convert(
    source: SourceArgument,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write.")],
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
    from stagevar.loading.published import Where

    model = write(
        source,
        folder,
        weights=weights,
        dtype=read_dtype(dtype),
        copy_text=text,
        where=Where(revision=revision, local_files_only=local_files_only),
    )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    if as_json:
        names = [str(path.relative_to(folder)) for path in files]
        typer.echo(json.dumps({"model": model.name, "folder": str(folder), "files": names, "bytes": size}))
    else:
        typer.echo(f"{model.name}: {len(files)} files, {size / 1e9:.3g} GB in {folder}; load it with -m {folder}")


@app.command()
def doctor(
    source: SourceArgument = "scenes",
    size: SizeOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 1,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    accelerator: Annotated[str, typer.Option("--accelerator", "-a", help="As in `generate`.")] = "none",
    offload: Annotated[bool, typer.Option("--offload-text-encoder", help="Its weights wait on the CPU.")] = False,
    weights: WeightsOption = None,
    revision: RevisionOption = None,
    local_files_only: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a model needs before it is loaded.

    Downloads, licence, disk and memory; exits with 1 if this machine does not have them.
    """
    from dataclasses import asdict

    from stagevar.cli import show
    from stagevar.loading.place import read_device, read_dtype
    from stagevar.loading.published import Where
    from stagevar.loading.sources import resolve
    from stagevar.measure.predict.doctor import diagnose
    from stagevar.request import Request

    height, width = read_size(size)
    place = read_device(device)
    found = diagnose(
        resolve(source, weights, Where(revision=revision, local_files_only=local_files_only)),
        Request("any", height=height, width=width, accelerator=accelerator),
        batch,
        dtype=read_dtype(dtype, place),
        device=place,
        offload_text_encoder=offload,
    )
    if as_json:
        totals = {name: getattr(found, name) for name in ("download", "need", "fits")}
        typer.echo(json.dumps(asdict(found) | totals | {"peak": found.run.peak}))
    else:
        show.diagnosis(found)
    raise typer.Exit(int(not found.fits))
