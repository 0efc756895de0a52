"""The tab that draws a picture anew: a picture, a brush over what is drawn, and how much of the rest is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageChops

from stagevar.calling import expand
from stagevar.editing.opened import open_mask
from stagevar.errors import OptionError
from stagevar.failure import explain
from stagevar.measure.why.maps import data_url
from stagevar.pipeline import Pipeline
from stagevar.request import Request
from stagevar.ui.asked import LONGEST_PROMPT, read_model, read_prompt, read_seed
from stagevar.ui.report import failure, progress
from stagevar.ui.stops import Stops

ABOUT = (
    "Choose a picture and paint over what is to be drawn; all else keeps its codes. Without paint the coarse scales "
    "are kept and the fine ones drawn, as many as **strength** says."
)
DRAWS: dict[str, Any] = {"trigger_mode": "once", "concurrency_limit": 1, "concurrency_id": "drawing"}
DRAWS |= {"preprocess": False, "show_progress": "hidden", "api_visibility": "private"}
"""Of buttons that draw: one of all pages and tabs at a time. Their fields come as the browser sends them, so that what
is wrong with one is said as every other door says it."""
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Of all else that a page asks for."""
SIDE = 512
"""Longest side in pixels of the picture that is shown."""

log = logging.getLogger(__name__)


def tab(models: Mapping[str, Pipeline]) -> None:
    """The contents of the tab.

    Args:
        models: that can read pictures, by name.
    """
    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column(min_width=300):
            painted = gr.ImageEditor(
                sources=["upload", "clipboard"],
                layers=False,
                transforms=[],
                brush=gr.Brush(colors=["#ffffff"], color_mode="fixed"),
                label="Picture",
                elem_id="painted",
            )
            prompt = gr.Textbox(label="What it is to show", max_length=LONGEST_PROMPT, elem_id="edit-prompt")
            strength = gr.Slider(0, 1, 0.9, step=0.05, label="Strength", info="Share of the scales that are drawn")
            with gr.Row():
                model = gr.Dropdown(list(models), value=next(iter(models)), label="Model", min_width=130)
                seed = gr.Textbox("1", label="Seed (empty: a fresh one)", min_width=130)
            with gr.Row():
                press = gr.Button("Draw anew", variant="primary", min_width=130, elem_id="edit")
                stop = gr.Button("Stop", min_width=130, elem_id="edit-stop")
        with gr.Column(min_width=300):
            said, shown = gr.HTML(elem_id="edit-said"), gr.HTML(elem_id="edited")
    edit = Edits(models)
    fields = [model, painted, prompt, strength, seed]
    press.click(edit.stops.wait, None, [said], **QUIET)
    press.click(edit.draw, fields, [said, shown], **DRAWS)
    stop.click(edit.stops.stop, None, [said], **QUIET)


class Edits:
    """Draw anew, on all open pages.

    Args:
        models: that the tab offers, by name.
    """

    def __init__(self, models: Mapping[str, Pipeline]) -> None:
        self.models, self.stops = models, Stops()

    def draw(
        self,
        model: Any,
        painted: Mapping[str, Any] | None,
        prompt: Any,
        strength: Any,
        seed: Any,
        session: gr.Request,
    ) -> Iterator[tuple[Any, Any]]:
        """What the page says and shows, scale by scale; of a failure its sentence."""
        try:
            with self.stops.turn(session) as stopped:
                pipeline = read_model(self.models, model)
                request = read(painted, prompt, strength, seed)
                for event in pipeline.events([request], cancelled=stopped):
                    h, w = event.grid
                    said = progress(f"scale {event.scale + 1} of {event.scales}, {h}x{w} tokens")
                    yield said, _picture(event.preview)
                assert event.result is not None
                yield f"<p>Seed {request.seed}. {event.result.notes[0]}</p>", gr.skip()
        except Exception as error:
            log.info("shown on the page", exc_info=True)
            yield failure(explain(error)[1]), gr.skip()


def read(painted: Mapping[str, Any] | None, prompt: Any, strength: Any, seed: Any) -> Request:
    """The request of the fields; a mask where something is painted.

    Args:
        painted: files of the picture and of the layers of paint, as the editor of the page uploads them.
        prompt, strength, seed: as the page shows them, or whatever a browser sends in their place.

    Raises:
        OptionError: no picture.
        PromptError, SizeError, OptionError: as ``Request`` and ``Edit.read``.
    """
    if painted is None or painted["background"] is None:
        raise OptionError("there is no picture; choose one to begin with")
    given = _paint(painted["layers"])
    picture = Path(painted["background"]["path"]).read_bytes()
    [request] = expand(read_prompt(prompt), image=picture, mask=given, strength=strength, seed=read_seed(seed))
    return request


def _paint(layers: Sequence[Mapping[str, Any]]) -> Image.Image | None:
    """A mask that is white where a layer holds any paint; None without paint."""
    bare = [open_mask(Path(layer["path"]).read_bytes()) for layer in layers]
    paint = reduce(ImageChops.lighter, map(ImageChops.invert, bare)) if bare else None
    return paint.point(lambda level: 255 if level else 0) if paint and paint.getbbox() else None


def _picture(image: Image.Image) -> str:
    return f'<img class="edited" src="{data_url(image, SIDE)}" alt="the picture drawn anew">'
