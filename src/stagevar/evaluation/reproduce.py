"""The runs that repeat a paper's table, as a script, and the published table beside what they found."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stagevar.errors import OptionError, quoted
from stagevar.evaluation.reading import free
from stagevar.evaluation.report import Report
from stagevar.files import replacing

SCRIPT, TABLE = "run.sh", "table.md"

MODELS = {"infinity-2b": "infinity", "infinity-8b": "infinity", "star-1024": "official", "hart-0.7b": "official"}
"""The models, and the protocol of each: Infinity's own scripts have one, for the others the benchmark's is taken."""

ACCELERATORS = "none", "stagevar_released", "stagevar_paper", "stagevar"
"""The plain run, the method as released and as its paper describes it, and ours."""

SUITES = "geneval", "dpg"

SAME = 30
"""Characters by which a script or table of before is known."""


@dataclass(frozen=True, slots=True)
class Published:
    """A row of the authors' table (README of sen-mao/StageVAR): scores, seconds of a picture, and what they claim.

    Attributes:
        geneval, dpg: overall scores, None where the table has none.
        seconds: of a picture, on a GPU that the table does not name.
    """

    geneval: float
    dpg: float | None
    seconds: float


PAPER = {
    ("infinity-2b", "none"): Published(0.73, 83.12, 2.2),
    ("infinity-2b", "stagevar_released"): Published(0.72, 82.86, 0.64),
    ("infinity-8b", "none"): Published(0.79, 86.60, 4.80),
    ("infinity-8b", "stagevar_released"): Published(0.78, 86.05, 1.77),
    ("star-1024", "none"): Published(0.51, None, 2.0),
    ("star-1024", "stagevar_released"): Published(0.51, None, 1.15),
}
"""The table names no model's prompts as rewritten or not; 0.73 of Infinity-2B is what others report with rewriting."""

HEAD = """#!/bin/sh
# Made by: stagevar eval --reproduce stagevar. Run it again after any interruption: it goes on.
# GENEVAL: evaluation_metadata.jsonl of djghosh13/geneval. REWRITTEN: prompt_rewrite_cache.json of Infinity.
# DPG: folder dpg_bench/prompts of TencentQQGYLab/ELLA. GENEVAL_SCORER and DPG_SCORER, if given: the scorers' command
# lines (docs/evaluation.md). OPTIONS go to every run, such as --ray.
set -eu
: "${GENEVAL:?}" "${REWRITTEN:?}" "${DPG:?}"
HERE=$(dirname "$0")
"""


@dataclass(frozen=True, slots=True)
class Planned:
    """One run of the list."""

    suite: str
    model: str
    accelerator: str

    @property
    def folder(self) -> str:
        return f"{self.model}/{self.accelerator}/{self.suite}"

    def command(self) -> str:
        """The run as a line of a shell, which sets the files of prompts and the scorers."""
        protocol, name = MODELS[self.model], self.suite.upper()
        words = ["stagevar", "eval", self.suite, "-m", self.model, "-a", self.accelerator, "--protocol", protocol]
        line = f'{shlex.join(words)} --prompts "${name}"'
        if self.suite == "geneval" and protocol == "infinity":
            line += ' --rewritten "$REWRITTEN"'
        return f'{line} -o "$HERE"/{self.folder} ${{OPTIONS:-}} ${{{name}_SCORER:+--scorer "${name}_SCORER"}}'


def planned() -> Iterator[Planned]:
    """All runs: the plain one of a model first, since the others are compared with it."""
    for model in MODELS:
        for accelerator in ACCELERATORS:
            for suite in SUITES:
                yield Planned(suite, model, accelerator)


def write(paper: str, folder: Path) -> None:
    """Write the script of all runs, and the paper's table with what the runs in the folder found so far.

    Raises:
        OptionError: there is no run list of this paper, or a file in the place of one that is not of this program.
        OutputError
    """
    if paper != "stagevar":
        raise OptionError(f"there is no run list of {quoted(paper)}; there is stagevar")
    lines = [f"{run.command()}\n" for run in planned()]
    end = 'stagevar eval --reproduce stagevar -o "$HERE"\n'
    files = {folder / SCRIPT: HEAD + "".join(lines) + end, folder / TABLE: table(folder)}
    for path, text in files.items():
        if not free(path, text[:SAME]):
            raise OptionError(f"{path} is there already and is not of a run list; give another folder")
    for path, text in files.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def table(folder: Path) -> str:
    """The paper's table beside what the runs in a folder found, with the protocol of each score."""
    lines = [
        "# StageVAR: published and found",
        "",
        "Published: the table in the README of sen-mao/StageVAR, which names neither GPU nor protocol. A dash is a",
        "score that was not published, or a run that has not been scored.",
        "",
        "| model | accelerator | GenEval published | GenEval found | DPG published | DPG found | seconds published |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    protocols = []
    for model in MODELS:
        for accelerator in ACCELERATORS:
            paper, found = PAPER.get((model, accelerator)), []
            for suite in SUITES:
                score, protocol = _found(folder / Planned(suite, model, accelerator).folder, suite)
                found.append(score)
                protocols += [f"* {model}, {accelerator}, {suite}: {protocol}"] if protocol else []
            published = (paper.geneval, paper.dpg, paper.seconds) if paper else (None, None, None)
            geneval, dpg, seconds = map(_cell, published)
            cells = model, f"`{accelerator}`", geneval, found[0], dpg, found[1], seconds
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *protocols]) + "\n"


def _found(folder: Path, suite: str) -> tuple[str, str]:
    """The headline score of a run, and its protocol; "-" and "" if it has none."""
    if not Report.exists(folder):
        return "-", ""
    report = Report.read(folder)
    measured = report.measured.get(suite)
    if measured is None:
        return "-", ""
    return f"{next(iter(measured.values.values())):.4g}", report.protocol.sentence()


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
