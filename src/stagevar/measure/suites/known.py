"""The suites by the name that a model gives (``ScaleModel.suite``)."""

from __future__ import annotations

from collections.abc import Mapping

from stagevar.engine.contract.model import ScaleModel
from stagevar.measure.suites.scenes import Scenes
from stagevar.measure.suites.suite import Suite

SUITES: Mapping[str, Suite] = {"scenes": Scenes()}


def suite_of(model: ScaleModel) -> Suite | None:
    """The suite that a model names, None if it names none."""
    return SUITES.get(model.suite)
