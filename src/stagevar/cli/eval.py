"""`stagevar eval`: the pictures of public benchmarks, as their official scorers read them, and the scores with their
protocol."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stagevar.cli.jobs import AddressOption, RayOption, Workers, WorkersOption, draw, settings_of
from stagevar.cli.options import (
    AcceleratorOption,
    BatchOption,
    DeviceOption,
    DtypeOption,
    GuidanceOption,
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
    read_numbers,
    read_place,
)
from stagevar.errors import OptionError

if TYPE_CHECKING:
    from stagevar.evaluation.report import Report
    from stagevar.evaluation.run import Run


@app.command("eval")
def evaluate(
    suite: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="Without one, the benchmarks are listed.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="The benchmark's own file or folder of prompts: draws its pictures.")
    ] = None,
    model: ModelOption = "scenes",
    accelerator: AcceleratorOption = "none",
    protocol: Annotated[str | None, typer.Option(help="A published one; without, the benchmark's own.")] = None,
    rewritten: Annotated[
        Path | None, typer.Option(help="JSON file from prompts to the texts that are drawn in their place.")
    ] = None,
    per_prompt: Annotated[
        int | None, typer.Option(min=1, help="Pictures per prompt, in place of the protocol's.")
    ] = None,
    guidance: GuidanceOption = None,
    temperature: Annotated[
        str | None, typer.Option(help="A number, or one per scale, in place of the protocol's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="With a picture's id it gives its seed.")] = 0,
    scorer: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Scores the run, with {pictures}, {prompts} and {results} in it."),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Results that the scorer wrote elsewhere.")
    ] = None,
    real: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Photographs, for the Frechet distance.")] = None,
    features: Annotated[Path | None, typer.Option(metavar="FILE", help="Weights of Inception for it.")] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Another run, such as the plain one, for the self-distance.")
    ] = None,
    reproduce: Annotated[
        str | None, typer.Option(metavar="PAPER", help="Write the run list of stagevar's table.")
    ] = None,
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
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")] = Path("eval"),
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw the pictures of a public benchmark, lay them out for its official scorer, and report scores with their
    protocol. Run it again and it goes on."""
    from stagevar.cli import show_evaluation as show
    from stagevar.evaluation.measures import Measures
    from stagevar.evaluation.report import Report
    from stagevar.evaluation.reproduce import write
    from stagevar.evaluation.run import Run, read_rewritten
    from stagevar.evaluation.scorer import Scorer
    from stagevar.evaluation.suites.known import SUITES, find

    if reproduce is not None:
        write(reproduce, read_place(output, folder=True))
        show.run_list(output)
        return
    if suite is None:
        show.suites(SUITES.values())
        return
    benchmark, folder = find(suite), read_place(output, folder=True)
    given = (each and each.expanduser() for each in (results, real, features, against))
    measures = Measures(None if scorer is None else Scorer(scorer), *given)
    if prompts is None and not measures.wanted:
        raise OptionError(f"give --prompts, {benchmark.prompts} of {benchmark.title}, or what is to be measured")
    if prompts is not None:
        texts = read_rewritten(rewritten) if rewritten else {}
        how = benchmark.protocol(protocol).changed(
            per_prompt=per_prompt,
            guidance=read_numbers(guidance, "--guidance"),
            temperature=read_numbers(temperature, "--temperature"),
            rewritten=bool(rewritten) or None,
        )
        run = Run(benchmark, how, benchmark.items(prompts), folder, texts)
        place = Place(model, weights, device, dtype, revision, local_files_only, offload, quantize, max_memory)
        hands = Workers(ray, ray_address, workers)
        measures.check(benchmark)
        report = _draw(run, place, accelerator, seed, batch_size, hands, prompts, rewritten, quiet=quiet)
    else:
        report = Report.of(benchmark, folder)
        Report.require_place(benchmark, folder)
        measures.check(benchmark)
    report = measures.taken(report, benchmark, folder)
    show.report(report, folder, as_json=as_json, quiet=quiet)
    if not report.laid.whole:
        raise typer.Exit(1)


def _draw(
    run: Run,
    place: Place,
    accelerator: str,
    seed: int,
    batch_size: int,
    workers: Workers,
    prompts: Path,
    rewritten: Path | None,
    *,
    quiet: bool,
) -> Report:
    """Draw what a run lacks, lay out what is there, and write its report."""
    from stagevar.evaluation.layout import lay_out, own_files
    from stagevar.evaluation.report import Report
    from stagevar.jobs.job import Job
    from stagevar.jobs.store import Store
    from stagevar.loading.sources import outline
    from stagevar.registry import parse

    before = Report.of(run.suite, run.folder) if Report.exists(run.folder) else None
    Report.require_place(run.suite, run.folder)
    own_files(run)
    accelerator, rows = str(parse(accelerator)), run.rows()
    meant, place = place.checked([replace(rows[0].row, accelerator=accelerator).request(seed)])
    settings = settings_of(place, accelerator, seed)
    protocol = run.protocol.resolved(asdict(outline(meant).defaults))
    job = Job(rows, Store(run.drawn), settings | {"protocol": protocol.sentence()}, batch_size)
    draw(job, place, settings, workers, len(rows), quiet=quiet)
    report = Report.made(run, protocol, settings, lay_out(run), prompts, rewritten)
    if before is not None and before.laid == report.laid:
        report = replace(report, measured=before.measured)
    report.write(run.folder)
    return report
