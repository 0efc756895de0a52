"""Rules of others in plans: what goes wrong with them is told with their names, and nothing odd is drawn with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from stagevar.accelerators.base import Accelerator
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import NumericError, OptionError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Wrong(Select):
    """A rule of somebody else that has a fault."""

    fault: str = ""

    def scores(self, x_RMC: Tensor, context: TokenContext) -> Any:
        if self.fault == "raises":
            raise ZeroDivisionError("division by zero")
        found = super(Wrong, self).scores(x_RMC, context)
        return {"none": None, "flat": found[0], "nan": found * torch.nan}.get(self.fault, found)

    def reduce(self, x_RMC: Tensor, context: TokenContext) -> Any:
        found = super(Wrong, self).reduce(x_RMC, context)
        assert found.index is not None
        others = {
            "nothing": None,
            "far": replace(found, index=found.index + 30),
            "before": replace(found, index=found.index - 30),
            "twice": replace(found, index=found.index * 0),
            "short": replace(found, x=found.x[:, 1:]),
            "empty": replace(found, x=found.x[:, :0], index=found.index[:, :0]),
            "infinite": replace(found, x=found.x * torch.inf),
        }
        return others.get(self.fault, found)


@dataclass(frozen=True)
class Reduces(Accelerator):
    name: ClassVar[str] = "reduces"
    fault: str = ""

    def plan(self, plan: Plan, schedule: Any, facts: Any) -> Plan:
        return plan.replace([-1], tokens=Wrong(0.5, restore_by="zero_code", fault=self.fault))


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("raises", "failed: ZeroDivisionError: division by zero"),
        ("none", "failed: AttributeError"),
        ("flat", r"scores are \(36,\), expected \(2, 36\)"),
        ("nan", "scores must be 0 or more"),
        ("nothing", "returned a NoneType where a Reduced"),
        ("far", "returned positions that are not in order"),
        ("before", "returned positions that are not in order"),
        ("twice", "returned positions that are not in order"),
        ("short", "for 17 rows"),
        ("empty", r"returned rows \(2, 0, 32\)"),
    ],
)
def test_a_fault_of_a_rule_of_others_is_told_with_its_name(fault: str, word: str) -> None:
    with pytest.raises(OptionError, match=rf"test_foreign\.Wrong.*{word}"):
        Pipeline(tiny("scenes"))("a star", seed=0, accelerator=Reduces(fault))


def test_numbers_that_a_rule_of_others_spoils_are_told_with_its_name() -> None:
    pipe = Pipeline(tiny("scenes"))
    assert pipe("a star", seed=0, accelerator=Reduces()).images
    with pytest.raises(NumericError, match=r"test_foreign\.Wrong: NaN or infinity in the logits of scale 4"):
        pipe("a star", seed=0, accelerator=Reduces("infinite"))
