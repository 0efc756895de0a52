"""What the tests of star share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stagevar.engine.contract.text import Text
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.families.star.network import Star
from stagevar.families.star.second_stage import SamplerConfig
from stagevar.families.tiny import tiny

PROMPTS = ("a cat", "two big red dogs on a sofa", "snow")
SAMPLER = SamplerConfig(first=4, rounds=4, last_rounds=5, early=2, depth=2)


def tiny_star(seed: int = 0, **changes: Any) -> Star:
    made = tiny("star", seed, **changes)
    assert isinstance(made, Star)
    return made


def codes(
    model: Star,
    seeds: Sequence[int],
    text: Text | None = None,
    negative: Text | None = None,
    size: int = 0,
    across_batch: bool = False,
    **fields: Any,
) -> list[Tensor]:
    """The codes (n, M) of every scale of one run."""
    schedule = model.config.schedules[size]
    guidance = model.guidance_schedule(4.5, schedule)
    plan = Plan.uniform(len(schedule), **({"guidance": guidance, "top_k": 40, "top_p": 0.8} | fields))
    drawn: list[Tensor] = []

    def keep(name: str, k: int, tensor: Tensor) -> None:
        if name == "codes":
            drawn.append(tensor)

    text = text or model.encode_text(PROMPTS[: len(seeds)])
    with torch.inference_mode():
        condition = model.condition(text, negative, across_batch=across_batch)
        for _ in run(model, condition, schedule, [plan] * len(seeds), seeds, tap=keep):
            pass
    return drawn


def equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
