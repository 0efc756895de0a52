"""What Draw does: it shows a comparison step by step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from stagevar.failure import explain
from stagevar.measure.why.comparison import Comparison
from stagevar.pipeline import Pipeline
from stagevar.ui.asked import read, read_model
from stagevar.ui.front import done, drawing, nothing
from stagevar.ui.report import failure, plan_in_words, progress, verdict
from stagevar.ui.stops import Stops
from stagevar.ui.table import table

Shown = tuple[Any, ...]
"""Words, pictures in front, table of scales, plan, and the seed's field; ``gr.skip()`` leaves one as it is."""

log = logging.getLogger(__name__)


class Presses:
    """Draw, on all open pages.

    Args:
        models: that the page offers, by name.
    """

    def __init__(self, models: Mapping[str, Pipeline]) -> None:
        self.models, self.stops = models, Stops()

    def draw(
        self,
        model: Any,
        prompt: Any,
        size: Any,
        seed: Any,
        accelerator: Any,
        quality: Any,
        session: gr.Request,
    ) -> Iterator[Shown]:
        """What the page shows, step by step; of a failure its sentence."""
        try:
            with self.stops.turn(session) as stopped:
                pipeline = read_model(self.models, model)
                request = read(pipeline.model, prompt, size, seed, accelerator, quality)
                yield from _shown(Comparison(pipeline, request, stopped))
        except Exception as error:
            log.info("shown on the page", exc_info=True)
            yield failure(explain(error)[1]), *[gr.skip()] * 4


def _shown(comparison: Comparison) -> Iterator[Shown]:
    seed = str(comparison.request.seed)
    yield progress("Reading the prompt"), nothing(), table(comparison), "", seed
    runs, seen = (comparison.plain, comparison.accelerated), 0
    for step in comparison.draw():
        before, seen = seen, sum(len(run.previews) for run in runs)
        news = (drawing(comparison), table(comparison)) if seen > before else (gr.skip(), gr.skip())
        yield progress(step), *news, gr.skip(), gr.skip()
    yield verdict(comparison), done(comparison), table(comparison), plan_in_words(comparison), gr.skip()
