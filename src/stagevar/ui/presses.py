"""What the buttons of the page do: Draw shows a comparison step by step, Stop ends it before its next scale."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from stagevar.errors import Cancelled
from stagevar.failure import explain
from stagevar.measure.why.comparison import Comparison
from stagevar.pipeline import Pipeline
from stagevar.ui.asked import read, read_model
from stagevar.ui.front import done, drawing, nothing
from stagevar.ui.report import failure, plan_in_words, progress, verdict
from stagevar.ui.table import table

Shown = tuple[Any, ...]
"""Words, pictures in front, table of scales, plan, and the seed's field; ``gr.skip()`` leaves one as it is."""

MOST_PAGES = 1000
"""Pages whose Stop is heard while they wait."""

log = logging.getLogger(__name__)


class Presses:
    """The buttons of all open pages.

    Args:
        models: that the page offers, by name.
    """

    def __init__(self, models: Mapping[str, Pipeline]) -> None:
        self.models = models
        self._stopped: dict[str, bool] = {}
        """Of the pages that draw or wait for their turn, whether Stop was pressed."""

    def wait(self, session: gr.Request) -> str:
        """What the page shows until it is its turn, from which moment on Stop is of this press."""
        if len(self._stopped) < MOST_PAGES:
            self._stopped[str(session.session_hash)] = False
        return progress("Waiting for its turn")

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
        name = str(session.session_hash)
        self._stopped.setdefault(name, False)

        def stopped() -> bool:
            return self._stopped.get(name, False)

        try:
            if stopped():
                raise Cancelled("cancelled before its turn")
            pipeline = read_model(self.models, model)
            request = read(pipeline.model, prompt, size, seed, accelerator, quality)
            yield from _shown(Comparison(pipeline, request, stopped))
        except Exception as error:
            log.info("shown on the page", exc_info=True)
            yield failure(explain(error)[1]), *[gr.skip()] * 4
        finally:
            self._stopped.pop(name, None)

    def stop(self, session: gr.Request) -> Any:
        """End the run of one page, or its wait."""
        name = str(session.session_hash)
        if name not in self._stopped:
            return gr.skip()
        self._stopped[name] = True
        return progress("Stopping")


def _shown(comparison: Comparison) -> Iterator[Shown]:
    seed = str(comparison.request.seed)
    yield progress("Reading the prompt"), nothing(), table(comparison), "", seed
    runs, seen = (comparison.plain, comparison.accelerated), 0
    for step in comparison.draw():
        before, seen = seen, sum(len(run.previews) for run in runs)
        news = (drawing(comparison), table(comparison)) if seen > before else (gr.skip(), gr.skip())
        yield progress(step), *news, gr.skip(), gr.skip()
    yield verdict(comparison), done(comparison), table(comparison), plan_in_words(comparison), gr.skip()
