"""Print what a run of a benchmark found, and which benchmarks there are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from stagevar.cli.show import figure, line, new_table, print_table
from stagevar.evaluation.report import PAGE, Report
from stagevar.evaluation.reproduce import SCRIPT, TABLE
from stagevar.evaluation.run import DRAWN, PICTURES
from stagevar.evaluation.suite import Suite
from stagevar.jobs.job import BAD, BESIDE


def suites(all_: Iterable[Suite]) -> None:
    """The benchmarks, the prompts that each takes, and its published protocols."""
    table = new_table("benchmark", "~prompts", "~protocol")
    for suite in all_:
        for i, each in enumerate(suite.protocols):
            said = each.sentence().removeprefix("protocol ")
            table.add_row(*((suite.name, suite.prompts) if i == 0 else ("", "")), said)
    print_table(table)


def run_list(folder: Path) -> None:
    """Where the runs of a paper are."""
    line(f"{folder / SCRIPT} runs them all, {folder / TABLE} has the published table beside what they found")


def report(found: Report, folder: Path, *, as_json: bool, quiet: bool) -> None:
    """The scores of a run behind its protocol."""
    if as_json:
        print(json.dumps(asdict(found)))
    elif not quiet:
        line(found.protocol.sentence())
        if found.measured:
            table = new_table("measured", "score", ">value", "~by")
            for name, each in found.measured.items():
                for score, value in each.values.items():
                    table.add_row(name, score, figure(value), each.by)
            print_table(table)
        line(f"{found.laid.files} files for the scorer in {folder / PICTURES}; {folder / PAGE} is the report")
    if not found.laid.whole:
        missing = f"{found.laid.asked - found.laid.drawn} of {found.laid.asked} pictures are missing"
        bad = folder / DRAWN / BESIDE / BAD
        said = f"{missing}; {f'{bad} says why' if bad.exists() else 'give --prompts to draw them'}"
        Console(stderr=True).print(said, highlight=False, markup=False, emoji=False, soft_wrap=True)
