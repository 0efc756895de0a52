"""The tab that draws a picture anew: a picture, a brush over what is drawn, and how much of the rest is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr
from PIL import Image

from stagevar.calling import expand
from stagevar.errors import OptionError, UnknownModelError, quoted
from stagevar.failure import explain
from stagevar.measure.why.maps import data_url
from stagevar.pipeline import Pipeline
from stagevar.request import Request
from stagevar.ui.asked import LONGEST_PROMPT, read_seed
from stagevar.ui.report import failure, progress

ABOUT = (
    "Choose a picture and paint over what is to be drawn; all else keeps its codes. Without paint the coarse scales "
    "are kept and the fine ones drawn, as many as **strength** says."
)
DRAWS: dict[str, Any] = {"trigger_mode": "once", "concurrency_limit": 1, "concurrency_id": "drawing"}
"""Of buttons that draw: one of all pages and tabs at a time."""
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
                type="pil",
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
            press = gr.Button("Draw anew", variant="primary", elem_id="edit")
        with gr.Column(min_width=300):
            said, shown = gr.HTML(elem_id="edit-said"), gr.HTML(elem_id="edited")
    edit = Edits(models)
    fields = [model, painted, prompt, strength, seed]
    press.click(edit.draw, fields, [said, shown], show_progress="hidden", api_visibility="private", **DRAWS)


class Edits:
    """The button of all open pages.

    Args:
        models: that the tab offers, by name.
    """

    def __init__(self, models: Mapping[str, Pipeline]) -> None:
        self.models = models

    def draw(
        self, model: str, painted: Mapping[str, Any] | None, prompt: str, strength: float, seed: str
    ) -> Iterator[tuple[Any, Any]]:
        """What the page says and shows, scale by scale; of a failure its sentence."""
        try:
            if model not in self.models:
                raise UnknownModelError(f"the page has no model {quoted(model)}; it has {', '.join(self.models)}")
            request = read(painted, prompt, strength, seed)
            for event in self.models[model].events([request]):
                h, w = event.grid
                yield progress(f"scale {event.scale + 1} of {event.scales}, {h}x{w} tokens"), _picture(event.preview)
            assert event.result is not None
            yield f"<p>Seed {request.seed}. {event.result.notes[0]}</p>", gr.skip()
        except Exception as error:
            log.info("shown on the page", exc_info=True)
            yield failure(explain(error)[1]), gr.skip()


def read(painted: Mapping[str, Any] | None, prompt: str, strength: float, seed: str) -> Request:
    """The request of the fields; a mask where something is painted.

    Raises:
        OptionError: no picture.
        PromptError, OptionError: as ``Request`` and ``Edit.read``.
    """
    picture: Image.Image | None = None if painted is None else painted["background"]
    if painted is None or picture is None:
        raise OptionError("there is no picture; choose one to begin with")
    mask = Image.new("L", picture.size)
    for layer in painted["layers"]:
        mask.paste(255, mask=layer.convert("RGBA").getchannel("A").point(lambda level: 255 if level else 0))
    given = mask if mask.getbbox() else None
    [request] = expand(prompt, image=picture, mask=given, strength=strength, seed=read_seed(seed))
    return request


def _picture(image: Image.Image) -> str:
    return f'<img class="edited" src="{data_url(image, SIDE)}" alt="the picture drawn anew">'
