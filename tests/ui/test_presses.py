"""The buttons of the page, pressed without a browser, and the command that opens it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import gradio as gr
import pytest

from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.measure.why import comparison
from stagevar.pipeline import Pipeline
from stagevar.ui.asked import shown
from stagevar.ui.page import blocks
from stagevar.ui.presses import Presses

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.setattr(comparison, "REPEATING", 0.0)
    return Pipeline(tiny("scenes"))


def press(presses: Presses, session: str = "one", **fields: Any) -> list[tuple[Any, ...]]:
    """What the page shows of one press of Draw."""
    [pipe] = presses.models.values()
    usual = {"model": pipe.model.name, "prompt": "a star", "size": shown(pipe.model.sizes()[0]), "seed": "1"}
    usual |= {"accelerator": "drop_last", "quality": 0.5}
    return list(presses.draw(**usual | fields, session=gr.Request(session_hash=session)))


def presses_of(pipe: Pipeline) -> Presses:
    return Presses({pipe.model.name: pipe})


def test_a_press_shows_every_scale_of_both_runs_and_ends_with_the_verdict(pipe: Pipeline) -> None:
    steps = press(presses_of(pipe))
    scales = len(pipe.model.schedule())
    assert len(steps) == 1 + 2 * scales + 1
    said, front, table, plan, _ = steps[-1]
    assert "fewer operations" in said and front.count("<img") == 4 and table.count("<img") == 3 * scales
    assert "not run" in plan and steps[0][-1] == "1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "../../models"}, "the page has no model"),
        ({"prompt": "an elephant"}, "does not know"),
        ({"accelerator": "<img src=x onerror=alert(1)>"}, "cannot read accelerator"),
        ({"model": {}}, "the page has no model {}"),
        ({"prompt": None}, "the prompt must be text"),
        ({"size": ["64 x 64"]}, "choose a size of the list"),
        ({"seed": None}, "seed must be a whole number"),
        ({"accelerator": None}, "an accelerator is given as text"),
        ({"accelerator": "stagevar", "quality": None}, "quality must be of the kind of 0.5"),
        ({"accelerator": "stagevar", "quality": 7}, "quality must lie between 0 and 1"),
    ],
)
def test_a_failure_is_one_sentence_and_leaves_the_rest_as_it_is(
    pipe: Pipeline, fields: dict[str, Any], message: str
) -> None:
    presses = presses_of(pipe)
    *_, (said, *rest) = press(presses, **fields)
    assert message in said and 'role="alert"' in said and "<img" not in said
    assert rest == [gr.skip()] * 4
    assert "fewer operations" in press(presses)[-1][0]


def test_a_fault_of_the_program_is_a_sentence_too(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(pipe.model, "add_codes", fail)
    *_, (said, *_) = press(presses_of(pipe))
    assert "RuntimeError: no such thing (please report this" in said


def test_stop_ends_the_run_of_its_own_page_alone(pipe: Pipeline) -> None:
    presses = presses_of(pipe)
    fields = {"model": pipe.model.name, "prompt": "a star", "size": shown(pipe.model.sizes()[0]), "seed": "1"}
    one, other = gr.Request(session_hash="one"), gr.Request(session_hash="other")
    steps = presses.draw(**fields, accelerator="none", quality=0.5, session=one)
    for _ in range(3):
        next(steps)
    presses.stops.stop(other)
    assert "scale 3" in next(steps)[0]
    presses.stops.stop(one)
    assert "cancelled before scale 3" in next(steps)[0] and next(steps, None) is None
    assert "fewer operations" in press(presses, "one")[-1][0]
    presses.stops.stop(one)
    assert "fewer operations" in press(presses, "one")[-1][0]  # Stop is of a run, and there was none


def test_stop_ends_the_wait_for_a_turn_too(pipe: Pipeline) -> None:
    presses, one = presses_of(pipe), gr.Request(session_hash="one")
    assert presses.stops.stop(one) == gr.skip()
    assert "Waiting for its turn" in presses.stops.wait(one)
    assert "Stopping" in presses.stops.stop(one)
    [(said, *_)] = press(presses, "one")
    assert "cancelled before its turn" in said and 'role="alert"' in said
    presses.stops.wait(one)
    assert "fewer operations" in press(presses, "one")[-1][0]


def test_two_models_of_one_name_are_refused(pipe: Pipeline) -> None:
    with pytest.raises(OptionError, match="two models"):
        blocks(pipe, Pipeline(tiny("scenes")))


def test_without_gradio_the_command_says_what_to_install(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagevar.cli.ui.find_spec", lambda name: None if name == "gradio" else importlib.util)
    assert command("ui") == (3, "", "error: gradio is not installed; run: pip install 'stagevar[ui]'\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "scenes", "-m", "var-d16", "--weights", "x"), "are of one model"),
        (("--host", "203.0.113.1", "--port", "0"), "cannot listen at 203.0.113.1"),
        (("--host", "no.such.host.invalid"), "cannot listen at no.such.host.invalid"),
        (("--port", "70000"), "less than or equal to 65535"),
    ],
)
def test_an_address_that_cannot_be_had_is_an_error(command: Command, arguments: tuple[str, ...], message: str) -> None:
    code, _, error = command("ui", *arguments)
    assert code == 2 and message in error


def test_a_model_that_is_not_there_is_an_error_before_the_page_opens(command: Command) -> None:
    code, out, error = command("ui", "--port", "0", "-m", "no-such-model")
    assert code == 2 and out == "" and "no-such-model" in error
