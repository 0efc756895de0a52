"""Run a benchmark: every cell of its matrix, batch by batch, going on where an earlier run has stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stagevar.errors import OptionError, quoted
from stagevar.machine import machine
from stagevar.measure.bench.against import against
from stagevar.measure.bench.compare import PLAIN, compare, distinct
from stagevar.measure.bench.inputs import digests
from stagevar.measure.bench.journal import Journal, stamp
from stagevar.measure.bench.matrix import Cell, Matrix
from stagevar.measure.bench.shown import Shown, show
from stagevar.measure.bench.warn import warnings
from stagevar.measure.likeness.scorer import Scorer
from stagevar.measure.suites.known import in_turn, questions_for
from stagevar.pipeline import Pipeline

FORMAT = "stagevar bench report 1"
REPORT, JOURNAL, PICTURES = "bench.json", "bench.jsonl", "pictures"

Told = Callable[[Cell, int, int], None]
"""Told the cell at hand, how many pictures it has, and how many of them are done."""


def bench(
    matrix: Matrix,
    load: Callable[[str], Pipeline],
    folder: Path,
    *,
    prompts: Sequence[str] = (),
    sides: Callable[[str], Mapping[str, Any]] = lambda size: {},
    scorers: Mapping[str, Scorer] | None = None,
    told: Told = lambda cell, of, done: None,
) -> tuple[dict[str, Any], list[list[Shown]]]:
    """Measure every cell.

    Args:
        matrix: what is measured.
        load: a model by name; one is held at a time.
        folder: of journal and pictures.
        prompts: lines of the matrix's file.
        sides: fields of ``Request`` for a text such as ``64x64``.
        scorers: further likenesses to the plain run, by name.
        told: how far it is.

    Returns:
        The report as plain data: ``cells``, each what ``compare`` returns with its ``warnings``; and the pictures of
        every cell.

    Raises:
        OptionError: a journal of another version.
        MissingFileError: a file that an accelerator names cannot be read.
        RequestError and its kinds, NumericError, OutputError.
    """
    journal, cells, pictures = Journal(folder / JOURNAL), list[dict[str, Any]](), list[list[Shown]]()
    pipe: Pipeline | None = None
    accelerators = list(distinct([PLAIN, *matrix.accelerators]))
    files = {name: digests(name, accelerators, matrix.lpips, prompts) for name in dict.fromkeys(matrix.models)}
    for cell in matrix.cells():
        if pipe is None or cells[-1]["asked"]["model"] != cell.model:
            pipe = load(cell.model)
        asked = matrix.asked(cell)
        conditions = asked | machine(pipe.model) | {"commit": stamp()["commit"], "files": files[cell.model]}
        sampling = {"guidance_scale": matrix.guidance, **sides(cell.size)}
        found = compare(
            pipe,
            accelerators,
            captions=matrix.captions,
            prompts=prompts,
            guidance=matrix.guidance,
            seed=matrix.seed,
            seeds=matrix.seeds,
            batch_size=cell.batch,
            scorers=scorers,
            known=journal.known(conditions),
            noted=partial(journal.add, conditions),
            progress=partial(told, cell, matrix.captions * matrix.seeds),
            **sides(cell.size),
        )
        cells.append(found | {"asked": asked, "warnings": warnings(found)})
        shown = min(matrix.shown, matrix.captions)
        questions = in_turn(prompts, shown) if prompts else questions_for(pipe.model, shown)
        pictures.append(show(pipe, accelerators, questions, folder / PICTURES, conditions, **sampling))
    return {"format": FORMAT, **stamp(), "cells": cells}, pictures


def read_report(path: Path, matrix: Matrix) -> dict[str, Any]:
    """The report of an earlier run, which a run of this matrix can be compared with.

    Args:
        path: ``bench.json``, or the folder that holds it.

    Raises:
        OptionError: no report, one of another version, a damaged one, or one that has no cell of the matrix.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(
            f"cannot read the report {file}: {getattr(error, 'strerror', None) or 'it is not JSON'}"
        ) from None
    own = found.get("format") if isinstance(found, dict) else None
    if own != FORMAT:
        raise OptionError(
            f"{file} is no report of this version ({FORMAT!r}, not {quoted(own)}); run `stagevar bench` again"
        )
    try:
        if not found["cells"]:
            raise ValueError("it has no cell")
        against(found, found)
        asked = [cell["asked"] for cell in found["cells"]]
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OptionError) as error:
        raise OptionError(f"{file} is a damaged report: {type(error).__name__} {error}") from None
    if not any(matrix.asked(cell) in asked for cell in matrix.cells()):
        raise OptionError(
            f"{file} has no cell in common with this run; ask for its models, sizes, batches, captions, seeds, prompts "
            "and guidance"
        )
    return dict(found)
