"""Print results on stdout: tables and sentences that fit a terminal of 80 columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import fill
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from stagevar.engine.contract.model import ScaleModel
    from stagevar.engine.loop.trace import Trace
    from stagevar.jobs.job import Job, Progress
    from stagevar.measure.conform.conform import Report
    from stagevar.measure.predict.doctor import Diagnosis
    from stagevar.pipeline import Pipeline
    from stagevar.profile import StageProfile
    from stagevar.request import Request


UNBROKEN = 10_000
"""Columns of a table that goes to a file or a pipe."""


@dataclass
class Done:
    """What a command has finished so far."""

    pictures: list[dict[str, Any]] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)


@contextmanager
def reporting(what: str, *, as_json: bool, quiet: bool) -> Iterator[Done]:
    """Print what was finished at the end, as a table or as JSON, after a failure too. The JSON names the failure."""
    done, failure = Done(), ""
    try:
        yield done
    except BaseException as error:
        failure = str(error) or type(error).__name__
        raise
    finally:
        if as_json:
            answer = {"pictures": done.pictures, "traces": [trace.to_dict() for trace in done.traces]}
            print(json.dumps(answer | ({"error": failure} if failure else {})))
        elif done.pictures and (failure or not quiet):
            pictures(done.pictures)
            if failure:
                line(f"{len(done.pictures)} {what}{'s' * (len(done.pictures) > 1)} finished before this:")
            elif done.traces:
                times(done.traces)


def pictures(rows: Sequence[Mapping[str, Any]]) -> None:
    """Where each picture is, and its seed."""
    table = new_table("~picture", ">seed")
    for row in rows:
        table.add_row(row["file"], str(row["seed"]))
    print_table(table)


def job(done: Progress, work: Job, *, as_json: bool, quiet: bool) -> None:
    """What a run of a job has done."""
    if as_json:
        counts = {name: getattr(done, name) for name in ("drawn", "before", "bad", "seconds", "rate")}
        print(json.dumps({**counts, "output": str(work.store.folder)}))
    elif not quiet:
        drawn = f"{done.drawn} picture{'s' * (done.drawn != 1)} drawn in {done.seconds:.1f} s"
        line(f"{drawn} ({done.rate:.1f} per second), {done.before} finished before; in {work.store.folder}")
    if done.bad:
        said = f"{done.bad} row{'s' * (done.bad > 1)} could not be drawn; {work.bad_rows} says why"
        Console(stderr=True).print(said, highlight=False, markup=False, emoji=False, soft_wrap=True)


def scales(trace: Trace) -> None:
    """Grid, tokens, rows and time of every scale."""
    table = new_table("scale", "grid", ">tokens", ">rows", ">ms")
    for row in trace.by_scale():
        cells = row["scale"], row["grid"], row["tokens"], row["rows"], f"{row['milliseconds']:.1f}"
        table.add_row(*map(str, cells))
    print_table(table)


def times(traces: Sequence[Trace]) -> None:
    """One line: pictures, and the seconds that each part took."""
    text = sum(trace.text_milliseconds for trace in traces) / 1e3
    network = sum(trace.network_milliseconds for trace in traces) / 1e3
    decoder = sum(trace.decode_milliseconds for trace in traces) / 1e3
    count, first = sum(len(trace.seeds) for trace in traces), traces[0]
    devices = " and ".join(dict.fromkeys(trace.machine["device"] for trace in traces))
    seconds, place = text + network + decoder, f"{devices}, {first.machine['dtype']}"
    line(
        f"{count} picture{'s' * (count > 1)} of {first.model} in {seconds:.2f} s on {place}: "
        f"text {text:.2f} s, network {network:.2f} s, decoder {decoder:.2f} s"
    )


def size(model: ScaleModel, request: Request, *, aside: bool = False) -> None:
    """A line if the model draws another size than a request asks for.

    Args:
        aside: on stderr, where stdout carries the result alone.
    """
    from stagevar.sizes import another_size, native_size

    _note(another_size(request, native_size(model, request)), aside=aside)


def fitted(pipe: Pipeline, request: Request, *, aside: bool = False) -> None:
    """A line if the picture that a request begins with had another size; ``aside`` as in ``size``."""
    found = pipe.prepare(request).fitted
    _note(f"the picture of {found.said}" if found is not None and found.said else "", aside=aside)


def fit(pipe: Pipeline, request: Request, batch: int, *, aside: bool = False) -> None:
    """A line on what a limit of memory led to; ``aside`` as in ``size``."""
    if pipe.max_memory is not None:
        _note(f"max memory: {pipe.fit(pipe.prepare(request), batch)}", aside=aside)


def _note(said: str, *, aside: bool) -> None:
    """A line that breaks nowhere, if there is one."""
    if said:
        Console(stderr=aside).print(said, highlight=False, markup=False, emoji=False, soft_wrap=True)


def models(rows: Sequence[Mapping[str, Any]]) -> None:
    """One block per family; below, what the figures and the licences are."""
    table = new_table("model", ">size", "here", "weights", "~licence")
    family = ""
    for row in rows:
        if row["family"] != family:
            family = row["family"]
            table.add_row(Text(family, style="bold"))
        on_disk = "yes" if row["on_disk"] else "no"
        table.add_row(f"  {row['name']}", _count(row["parameters"]), on_disk, row["sources"][0], row["licence"])
    print_table(table)
    line("size: parameters; (code): licence of the authors' code, that of the weights is stated in their repository")


def conformance(report: Report) -> None:
    """Every tensor's worst error beside what is allowed there."""
    table = new_table("tensor", ">error", ">tolerance", "", title=report.set)
    for row in report.rows:
        table.add_row(row.tensor, f"{row.error:.1e}", f"{row.tolerance:.1e}", "ok" if row.ok else "FAILS")
    for name in report.unchecked:
        table.add_row(name, "", "", "NOT CHECKED")
    print_table(table)
    line(f"{report.set}: {report.checked} tensors checked, {'all hold' if report.ok else 'NOT ALL HOLD'}")


def scores(values: Mapping[str, Any]) -> None:
    """Shares of right pictures; nested tables are indented."""
    table = new_table("score", ">value")
    for name, value in values.items():
        if not isinstance(value, Mapping):
            table.add_row(name, _value(value))
            continue
        table.add_row(name, "")
        for inner, share in value.items():
            table.add_row(f"  {inner}", _value(share))
    print_table(table)


def profile(found: StageProfile) -> None:
    """Stage of every scale, the mean rank of its block groups' inputs as a share of the rows, and the dial."""
    energies = list(found.ranks)
    table = new_table("scale", "grid", "stage", *(f">rank, {energy:.0%} energy" for energy in energies))
    for k, (stage, (h, w)) in enumerate(zip(found.stages(), found.schedule, strict=True)):
        means = (found.ranks[energy][k].mean for energy in energies)
        table.add_row(str(k), f"{h}x{w}", stage, *(f"{sum(mean) / len(mean):.1%}" for mean in means))
    print_table(table)
    if found.dial:
        dial = new_table("stagevar(quality=...)", ">SSIM", ">SSIM, worst tenth", ">fewer operations")
        for point in found.dial:
            dial.add_row(f"{point.quality}", f"{point.ssim:.3f}", f"{point.low:.3f}", f"{point.flop_ratio:.2f}x")
        print_table(dial)


def comparison(values: Mapping[str, Any]) -> None:
    """The tables of a comparison, speed and quality, and what their figures depend on."""
    from stagevar.measure.bench.table import COLUMNS, caption, cells
    from stagevar.measure.bench.warn import warnings

    rows = [dict(zip(COLUMNS, cells(row, values["scales"]), strict=True)) for row in values["rows"]]
    for columns in (
        ("network s", "total s", "speed-up (quartiles)", "by operations", "scales run"),
        ("oracle", "difference ± error", "relaxed", "SSIM", "worst tenth", "PSNR"),
        ("rows", "GFLOP", "peak MB", "cache MB", "self-Frechet", "bands"),
    ):
        table = new_table("~accelerator", *(f">{column}" for column in columns))
        for row in rows:
            table.add_row(row["accelerator"].strip("`"), *(row[column] for column in columns))
        print_table(table)
    line(caption(values))
    for warning in warnings(values):
        line(f"warning: {warning}")


def diagnosis(found: Diagnosis) -> None:
    """Files, then memory phase by phase, then the verdict."""
    from stagevar.memory.limit import amount

    table = new_table("~file", "~from", ">size", "state")
    for file in found.files:
        size = "unknown" if file.size is None else amount(file.size)
        table.add_row(file.name, file.source, size, file.state)
    print_table(table)
    table = new_table("scale", "grid", ">cache", ">memory")
    for scale in found.run.scales:
        grid = f"{scale.grid[0]}x{scale.grid[1]}"
        table.add_row(str(scale.scale), grid, amount(scale.cache), amount(scale.peak))
    print_table(table)
    height, width = found.size
    phases = {
        "condition": found.run.condition,
        "loop": max(scale.peak for scale in found.run.scales),
        "decoder": found.run.decoder,
    }
    kept = {"weights": found.run.weights, "text encoder": found.text_encoder, "Python and PyTorch": found.interpreter}
    sums = [f"{name} {amount(count)}" for name, count in kept.items() if count]
    if found.text_encoder and found.offloaded:
        sums[1] += " on the CPU"
    pictures = f"{found.batch} picture{'s' * (found.batch > 1)} at {width}x{height}"
    rounded = f" with {found.quantize} weights" if found.quantize else ""
    largest = ", ".join(f"{name} {amount(count)}" for name, count in phases.items())
    line(
        f"{found.model}, licence {found.licence}: {pictures} in {found.dtype}{rounded} on {found.device} "
        f"need{'s' * (found.batch == 1)} {amount(found.need)}: {' + '.join(sums)} + the largest of {largest}"
    )
    if found.fit:
        line(f"max memory: {found.fit}")
    free = f"{amount(found.disk)} of disk free, {amount(found.memory)} of memory free"
    unknown = any(file.size is None for file in found.files if file.state in ("to download", "unknown"))
    known = amount(found.download) if found.download else "nothing"
    line(f"{'an unknown amount' if unknown else known} to download; {free}")
    line(f"threads: {found.threads}")
    for remark in found.remarks:
        line(f"remark: {remark}")
    for trouble in found.troubles:
        line(f"NOT ready: {trouble}")
    if found.ready:
        line("ready: it can be loaded and drawn here")


def new_table(*columns: str, title: str | None = None, gap: int = 2) -> Table:
    """A plain table.

    Args:
        columns: a leading ``>`` aligns a column to the right; a leading ``~`` lets its words go to further lines.
        gap: blanks between two columns.
    """
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", header_style="bold")
    table.padding = (0, gap, 0, 0)
    for column in columns:
        name = column.lstrip(">~")
        table.add_column(
            name, justify="right" if column[:1] == ">" else "left", overflow="fold", no_wrap=column[:1] != "~"
        )
    return table


def print_table(table: Table) -> None:
    """To a terminal in its width; to a file or a pipe without breaking a cell, and without blanks at ends of lines."""
    console = Console(markup=False, emoji=False, highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = UNBROKEN
    with console.capture() as captured:
        console.print(table)
    for row in captured.get().splitlines():
        print(row.rstrip())


def line(text: str) -> None:
    """A sentence; to a terminal broken between words."""
    console = Console()
    if console.is_terminal:
        text = fill(text, console.width, break_long_words=False, break_on_hyphens=False)
    console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


def figure(value: float) -> str:
    """Four digits, or all digits of a larger number."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _value(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _count(parameters: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{name}"
    return str(parameters)
