"""What the tests of infinity share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.families.infinity.network import Infinity
from stagevar.families.tiny import tiny

PROMPTS = ("a cat", "two big red dogs on a very long sofa")


def tiny_infinity(seed: int = 0, **changes: Any) -> Infinity:
    made = tiny("infinity", seed, **changes)
    assert isinstance(made, Infinity)
    return made


def bits(
    model: Infinity,
    prompts: Sequence[str],
    seeds: Sequence[int],
    negative: Text | None = None,
    schedule: Schedule | None = None,
    **fields: object,
) -> list[Tensor]:
    """The bits (n, M, d) of every scale of one run."""
    schedule = schedule or model.schedule()
    plan = Plan.uniform(len(schedule), **({"guidance": 3.0, "temperature": 0.5, "top_p": 0.97} | fields))
    drawn: list[Tensor] = []

    def keep(name: str, k: int, tensor: Tensor) -> None:
        if name == "codes":
            drawn.append(tensor)

    with torch.inference_mode():
        condition = model.condition(model.encode_text(prompts), negative)
        plans = [plan] * len(prompts)
        for _ in run(model, condition, schedule, plans, seeds, tap=keep):
            pass
    return drawn


def equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
