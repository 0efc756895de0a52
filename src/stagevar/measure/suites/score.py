"""The score of a model on its own suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from stagevar.errors import OptionError
from stagevar.machine import machine
from stagevar.measure.suites.categories import composition, scores
from stagevar.measure.suites.known import suite_of
from stagevar.measure.suites.suite import Verdict
from stagevar.pipeline import Pipeline
from stagevar.request import PerScale

MAX_CAPTIONS = 10_000


def score(
    pipeline: Pipeline,
    *,
    captions: int = 600,
    guidance: PerScale | Sequence[float] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Draw the captions of a model's suite, the categories in turn, and let its reader judge the pictures.

    Args:
        pipeline: a model that names a suite.
        captions: how many pictures, one per caption; picture i has seed ``seed + i``.
        guidance: strength; the model's default if None.
        progress: told how many pictures are done.
        fields: further settings of the pipeline's call.

    Returns:
        ``overall`` (mean over categories of the strict share) and its standard ``error``, ``relaxed`` (the same, shape
        identity ignored), ``categories``, ``relaxed_categories``, how many captions there were, held out and different,
        and what was run.

    Raises:
        OptionError: a model without a suite, or a number of captions out of range.
    """
    model, suite = pipeline.model, suite_of(pipeline.model)
    if suite is None:
        raise OptionError(f"model {model.name} has no suite with a reader of its pictures; scenes has one")
    if not 1 <= captions <= MAX_CAPTIONS:
        raise OptionError(f"captions must lie between 1 and {MAX_CAPTIONS}, not {captions}")
    questions, verdicts = suite.questions(captions), list[Verdict]()
    for start in range(0, captions, batch_size):
        chosen = questions[start : start + batch_size]
        result = pipeline(
            [question.caption for question in chosen],
            seed=[seed + start + i for i in range(len(chosen))],
            guidance_scale=guidance,
            batch_size=batch_size,
            output_type="pt",
            **fields,
        )
        verdicts += suite.judge(chosen, torch.stack(result.images))
        if progress is not None:
            progress(len(verdicts))
    return {
        **scores(questions, verdicts),
        **composition(suite, questions),
        **machine(model),
        "model": model.name,
        "guidance": model.defaults.guidance if guidance is None else guidance,
        "seed": seed,
    }
