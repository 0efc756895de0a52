"""The page: prompt, model, size, seed and accelerator to two pictures of one seed, and what each scale did."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from stagevar.errors import OptionError
from stagevar.pipeline import Pipeline
from stagevar.registry import known
from stagevar.ui import door
from stagevar.ui.asked import LONGEST_PROMPT, has_dial, named, shown
from stagevar.ui.door import Page
from stagevar.ui.edits import DRAWS, QUIET, tab
from stagevar.ui.front import nothing
from stagevar.ui.presses import Presses

ABOUT = (
    "A picture is drawn as a sequence of grids, from 1x1 tokens to the full size. An **accelerator** does less work at "
    "some of them. Both pictures below have the same prompt and seed: what differs is its doing."
)
KEPT = 600
"""Seconds for which pictures that a reader chooses lie in the temporary folder."""
LARGEST_UPLOAD = "64mb"
"""The browser sends every picture as a PNG, which photographs of a camera make large."""
SAMPLES = 4
"""Prompts that the page suggests."""


def blocks(*pipelines: Pipeline) -> Page:
    """The page for one or several loaded models; ``mount`` puts it into an application.

    Raises:
        OptionError: two models have one name.
    """
    models = {pipeline.model.name: pipeline for pipeline in pipelines}
    if len(models) < len(pipelines):
        raise OptionError("two models of the page have one name; give each once")
    with Page(title="stagevar", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(f"# stagevar\n{ABOUT}")
        with gr.Tab("Compare", elem_id="compare"):
            _compare(pipelines, models)
        if reading := {name: pipeline for name, pipeline in models.items() if pipeline.model.encodes}:
            with gr.Tab("Edit", elem_id="edit-tab"):
                tab(reading)
    return page


def _compare(pipelines: Sequence[Pipeline], models: Mapping[str, Pipeline]) -> None:
    """The tab of a plain and an accelerated run."""
    presses, first = Presses(models), pipelines[0].model
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(first.samples[0], label="Prompt", max_length=LONGEST_PROMPT, elem_id="prompt")
            samples = gr.Dataset(**_samples(pipelines[0]), label="Try", components=[prompt], type="values")
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", min_width=130, elem_id="draw")
                stop = gr.Button("Stop", min_width=130, elem_id="stop")
            accelerator = gr.Dropdown(
                sorted(known(), key=lambda name: name != "stagevar"),
                value="stagevar",
                label="Accelerator",
                info=_about("stagevar"),
                allow_custom_value=True,
                elem_id="accelerator",
            )
            quality = gr.Slider(0, 1, 0.5, step=0.05, label="Quality", info="0 is fastest, 1 the plain run")
            with gr.Row():
                model = gr.Dropdown(list(models), value=first.name, label="Model", min_width=130, elem_id="model")
                size = gr.Dropdown(**_sizes(pipelines[0]), label="Size", min_width=130, elem_id="size")
            with gr.Row():
                seed = gr.Textbox("1", label="Seed (empty: a fresh one)", min_width=130, elem_id="seed")
                dice = gr.Button("New seed", size="sm", scale=0, min_width=100, elem_id="new-seed")
        with gr.Column(scale=4, min_width=300):
            said = gr.HTML("<p>Press Draw, or Enter in the prompt.</p>", elem_id="verdict")
            front = gr.HTML(nothing(), elem_id="front")
    scales = gr.HTML(elem_id="scales")
    words = gr.HTML(elem_id="plan")

    fields = [model, prompt, size, seed, accelerator, quality]
    outputs = [said, front, scales, words, seed]
    pressed = [draw.click, prompt.submit, seed.submit]
    gr.on(pressed, presses.stops.wait, None, [said], **QUIET)
    gr.on(pressed, presses.draw, fields, outputs, **DRAWS)
    stop.click(presses.stops.stop, None, [said], **QUIET)
    dice.click(lambda: str(secrets.randbits(32)), None, [seed], **QUIET)
    samples.click(lambda sample: sample[0], [samples], [prompt], **QUIET)
    accelerator.change(_dial, [accelerator], [accelerator, quality], **QUIET)
    if len(models) > 1:
        model.change(lambda name: _of(models[name]), [model], [size, samples, prompt], **QUIET)


def mount(app: FastAPI, *pipelines: Pipeline, path: str = "/") -> None:
    """Put the page into an application. It asks nothing of other servers, takes no files but pictures to edit, and has
    no programming interface of its own."""
    door.mount(
        app,
        blocks(*pipelines),
        path,
        theme=_theme(),
        head=f"<style>{Path(__file__).with_name('page.css').read_text(encoding='utf-8')}</style>",
        app_kwargs={"openapi_url": None},
        footer_links=["settings"],
        run_history=False,
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
    )


def _theme() -> gr.themes.Base:
    """Fonts of the reader's machine, and small print with enough contrast."""
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )


def _samples(pipeline: Pipeline) -> dict[str, Any]:
    return {"samples": [[sample] for sample in pipeline.model.samples[:SAMPLES]]}


def _sizes(pipeline: Pipeline) -> dict[str, Any]:
    model = pipeline.model
    return {"choices": [*map(shown, model.sizes())], "value": shown(model.picture_size(model.schedule()))}


def _of(pipeline: Pipeline) -> tuple[Any, ...]:
    """Sizes, suggestions and prompt of another model."""
    return gr.Dropdown(**_sizes(pipeline)), gr.Dataset(**_samples(pipeline)), pipeline.model.samples[0]


def _dial(accelerator: Any) -> tuple[Any, Any]:
    """What an accelerator does, and whether the dial belongs to it."""
    return gr.Dropdown(info=_about(accelerator)), gr.Slider(visible=has_dial(accelerator))


def _about(accelerator: Any) -> str:
    """The first sentence of its documentation; for other text how it is written."""
    cls = named(accelerator)
    if cls is None:
        return "name(field=value), sums with +"
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())
