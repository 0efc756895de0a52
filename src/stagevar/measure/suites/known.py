"""The suites by the name that a model gives (``ScaleModel.suite``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stagevar.engine.contract.model import ScaleModel
from stagevar.measure.suites.scenes import Scenes
from stagevar.measure.suites.suite import Prompt, Question, Suite

SUITES: Mapping[str, Suite] = {"scenes": Scenes()}


def suite_of(model: ScaleModel) -> Suite | None:
    """The suite that a model names, None if it names none."""
    return SUITES.get(model.suite)


def questions_for(model: ScaleModel, count: int) -> Sequence[Question]:
    """What a model is asked if a user gives no prompts: its suite's questions, or its sample prompts in turn."""
    suite = suite_of(model)
    if suite is not None:
        return suite.questions(count)
    return in_turn(model.samples, count)


def in_turn(prompts: Sequence[str], count: int) -> list[Question]:
    """``count`` questions out of prompts, which are repeated if there are fewer."""
    return [Prompt(prompts[i % len(prompts)]) for i in range(count)]
