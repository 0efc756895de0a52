"""The tab that draws a picture anew, without a browser."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.ui.edits import Edits

PAGE = gr.Request(session_hash="one")
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(tiny("scenes"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def painted(box: tuple[int, int, int, int] | None, size: tuple[int, int] = PICTURE.size) -> dict[str, Any]:
    """What the editor of the page uploads for white paint in a box."""
    layer = Image.new("RGBA", size)
    if box is not None:
        layer.paste((255, 255, 255, 255), box)
    PICTURE.convert("RGBA").save("background.png")
    layer.save("layer_0.png")
    return {"background": {"path": "background.png"}, "layers": [{"path": "layer_0.png"}], "composite": None}


def begun(edits: Edits, **fields: Any) -> Iterator[tuple[Any, Any]]:
    """What the page shows of one press of Draw anew, step by step."""
    [name] = edits.models
    usual: dict[str, Any] = {"model": name, "prompt": "a star", "strength": 0.9, "session": PAGE}
    if "painted" not in fields:
        usual["painted"] = painted((0, 0, 6, 12))
    return edits.draw(**{**usual, "seed": "3", **fields})


def press(pipe: Pipeline, **fields: Any) -> list[tuple[Any, Any]]:
    return list(begun(Edits({pipe.model.name: pipe}), **fields))


def test_a_press_shows_every_scale_and_ends_with_the_picture_that_python_draws(pipe: Pipeline) -> None:
    for box in ((0, 0, 6, 12), None):
        *steps, (said, _) = press(pipe, painted=painted(box))
        assert len(steps) == len(pipe.model.schedule()) and "Seed 3." in said
        mask = None if box is None else np.hstack([np.full((12, 6), 255, np.uint8), np.zeros((12, 6), np.uint8)])
        alone = pipe("a star", image=PICTURE, mask=mask, strength=0.9, seed=3).images[0]
        found = re.search(r"base64,([^\"]+)", steps[-1][1])
        assert found is not None
        shown = Image.open(BytesIO(base64.b64decode(found[1]))).convert("RGB")
        assert np.array_equal(np.asarray(shown), np.asarray(alone))


def test_stop_ends_the_run_at_the_next_scale_and_the_wait_for_a_turn(pipe: Pipeline) -> None:
    edits = Edits({pipe.model.name: pipe})
    steps = begun(edits)
    next(steps)
    edits.stops.stop(PAGE)
    assert "cancelled before scale 1" in next(steps)[0] and next(steps, None) is None
    edits.stops.wait(PAGE)
    edits.stops.stop(PAGE)
    [(said, _)] = begun(edits)
    assert "cancelled before its turn" in said
    assert "Seed 3." in [*begun(edits)][-1][0]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"painted": None}, "choose one to begin with"),
        ({"painted": {"background": None, "layers": [], "composite": None}}, "choose one to begin with"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "a zebra"}, "zebra"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"model": "other"}, "the page has no model"),
        ({"model": ["other"]}, "the page has no model"),
        ({"seed": None}, "seed must be a whole number"),
        ({"prompt": None}, "the prompt must be text"),
        ({"prompt": ["a star", "a ring"]}, "the prompt must be text"),
        ({"prompt": "a star " * 1000}, "the page takes at most 4000"),
        ({"strength": 1.5}, "strength must be a number between 0 and 1"),
        ({"strength": float("nan")}, "strength must be a number between 0 and 1"),
        ({"strength": "much"}, "strength must be a number between 0 and 1"),
    ],
)
def test_a_failure_is_a_sentence(pipe: Pipeline, fields: dict[str, Any], why: str) -> None:
    (said, _), *rest = press(pipe, **fields)
    assert why in said and 'role="alert"' in said and not rest


def test_a_picture_that_is_none_is_told_as_everywhere(pipe: Pipeline) -> None:
    other = painted((0, 0, 6, 6), (6, 6))
    assert "the mask has 6x6 pixels and the picture 12x12" in press(pipe, painted=other)[0][0]
    for contents, why in (
        (b"text", "in no format that is known"),
        (Path("background.png").read_bytes()[:200], "broken"),
    ):
        Path("background.png").write_bytes(contents)
        assert why in press(pipe, painted=other)[0][0]


def test_the_tab_is_there_for_models_that_read_pictures() -> None:
    code = """
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.ui.page import blocks
for family in ("scenes", "var"):
    page = blocks(Pipeline(tiny(family)))
    print(*(block.label for block in page.blocks.values() if type(block).__name__ == "Tab"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["Compare Edit", "Compare"]
