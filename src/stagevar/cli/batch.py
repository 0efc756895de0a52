"""`stagevar batch`: many prompts to pictures, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stagevar.cli.jobs import AddressOption, RayOption, Workers, WorkersOption, draw, settings_of
from stagevar.cli.options import (
    AcceleratorOption,
    BatchOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MemoryOption,
    ModelOption,
    OfflineOption,
    OffloadOption,
    Place,
    QuantizeOption,
    QuietOption,
    RevisionOption,
    WeightsOption,
    app,
    read_place,
)
from stagevar.errors import OptionError


@app.command()
def batch(
    rows: Annotated[
        Path | None,
        typer.Argument(metavar="ROWS", help="JSONL, CSV, Parquet or text file, or a folder of text files."),
    ] = None,
    balanced: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="In place of rows: N pictures, all classes equally often.")
    ] = None,
    model: ModelOption = "scenes",
    accelerator: AcceleratorOption = "none",
    seed: Annotated[int, typer.Option(min=0, help="With a row's id it gives the seed of rows without one.")] = 0,
    form: Annotated[str, typer.Option("--format", help="files, webdataset or parquet.")] = "files",
    shard_size: Annotated[int, typer.Option(min=1, help="Pictures of a shard.")] = 1000,
    batch_size: BatchOption = 16,
    ray: RayOption = False,
    ray_address: AddressOption = None,
    workers: WorkersOption = 0,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    revision: RevisionOption = None,
    local_files_only: OfflineOption = False,
    offload: OffloadOption = False,
    quantize: QuantizeOption = None,
    max_memory: MemoryOption = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the pictures.")] = Path("out"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw the rows of a file, one picture per id; run it again and it goes on.

    A row has a prompt and may have id, seed, accelerator, negative_prompt, height, width, aspect_ratio, strict,
    guidance_scale, temperature, top_k, top_p, smooth and unconditional. Rows that cannot be drawn go to job/bad.jsonl
    with the reason, and the exit code is 1.
    """
    from stagevar.cli import show
    from stagevar.jobs.job import Job
    from stagevar.jobs.rows import Source
    from stagevar.jobs.store import FORMATS, Store
    from stagevar.registry import parse
    from stagevar.request import Request

    if (rows is None) == (balanced is None):
        raise OptionError("give a file of rows, or --balanced N for a class model")
    if form not in FORMATS:
        raise OptionError(f"--format must be one of {', '.join(FORMATS)}, not {form}")
    hands = Workers(ray, ray_address, workers)
    accelerator = str(parse(accelerator))
    source = None if rows is None else Source.read(rows)
    store = Store(read_place(output, folder=True), form, shard_size)
    place = Place(model, weights, device, dtype, revision, local_files_only, offload, quantize, max_memory)
    settings = settings_of(place, accelerator, seed) | {"balanced": balanced}
    given, total = (source, source.count()) if source is not None else _classes(place, balanced or 0)
    place = place.checked([Request("any", accelerator=accelerator)])[1]
    job = Job(given, store, settings, batch_size)
    done = draw(job, place, settings, hands, total, quiet=quiet)
    show.job(done, job, as_json=as_json, quiet=quiet)
    if done.bad:
        raise typer.Exit(1)


def _classes(place: Place, pictures: int) -> tuple[Any, int]:
    """The rows of ``--balanced``, and how many there are."""
    from stagevar.jobs.rows import balanced
    from stagevar.loading.sources import outline

    classes = getattr(getattr(outline(place.resolve()), "config", None), "classes", None)
    if classes is None:
        raise OptionError(f"{place.model} takes prompts, not classes; give a file of rows")
    return balanced(pictures, classes), pictures
