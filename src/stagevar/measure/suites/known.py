"""The suites by the name that a model gives (``ScaleModel.suite``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stagevar.engine.contract.model import ScaleModel
from stagevar.families.scenes.network import Scenes as Network
from stagevar.measure.suites.photos import Photos
from stagevar.measure.suites.scenes import Scenes
from stagevar.measure.suites.suite import Prompt, Question, Suite

SCENES = Scenes()


def _photos(model: ScaleModel) -> Suite:
    assert isinstance(model, Network)
    return Photos(model.reader)


SUITES: Mapping[str, Callable[[ScaleModel], Suite]] = {"scenes": lambda model: SCENES, "photos": _photos}


def suite_of(model: ScaleModel) -> Suite | None:
    """The suite that a model names, None if it names none."""
    return SUITES[model.suite](model) if model.suite in SUITES else None


def questions_for(model: ScaleModel, count: int) -> Sequence[Question]:
    """What a model is asked if a user gives no prompts: its suite's questions, or its sample prompts in turn."""
    suite = suite_of(model)
    if suite is not None:
        return suite.questions(count)
    return in_turn(model.samples, count)


def in_turn(prompts: Sequence[str], count: int) -> list[Question]:
    """``count`` questions out of prompts, which are repeated if there are fewer."""
    return [Prompt(prompts[i % len(prompts)]) for i in range(count)]
