"""The same accelerator text at every picture size of Infinity's table and in every batch."""

from __future__ import annotations

import pytest
import torch

from stagevar.accelerators.stagevar_official import FIDELITY_SHARE
from stagevar.calling import expand
from stagevar.engine.grids.grid import Schedule, scales
from stagevar.engine.plan.plan import STAGES, Plan
from stagevar.families.infinity.grids import BUDGETS, SCHEDULES
from stagevar.families.tiny import tiny
from stagevar.loading.sources import skeleton
from stagevar.measure.predict.explain import explain
from stagevar.measure.predict.rehearse import rehearse
from stagevar.pipeline import Pipeline
from stagevar.registry import known, parse
from stagevar.request import Request

pytestmark = pytest.mark.slow

CONTROLS = ["drop_last(1)", "drop_last(4)", "guidance_off(2)", "guidance_off(2, branch='null')", "reuse_last(1)"]
SUMS = ["drop_last(1)+guidance_off(2)", "drop_last(1)+stagevar"]
RUN = ["stagevar", "stagevar(quality=0.0)", "stagevar_released", "stagevar_paper", *CONTROLS, *SUMS]
FITTED = {"skipvar"}
"""Their numbers are for one size of one model."""
PLANNED = sorted({*known(), *RUN} - FITTED)
ATTENTION_ALONE = ("scalekv", "sparvar")
"""Their gain is bounded by the share of attention, which grows with the picture; votes cost some operations."""
FOR_QUALITY = ("ssg",)
"""They save nothing and take little."""
SIZES = {length: [s for s in SCHEDULES.values() if len(s) == length] for length in BUDGETS.values()}

PROMPTS = [
    "a star",
    "two yellow rings above a cross",
    "a red circle",
    "three stars",
    "a green square to the left of a blue star",
    "a ring",
    "four pink crosses",
    "a cyan triangle and a red ring",
]


@pytest.fixture(scope="module")
def large() -> Pipeline:
    """Shapes of a published model, no weights."""
    return Pipeline(skeleton("infinity-2b"))


def planned(pipe: Pipeline, schedule: Schedule, accelerator: str) -> Plan:
    height, width = pipe.model.picture_size(schedule)
    return pipe.prepare(Request("x", height=height, width=width, accelerator=accelerator)).plan


@pytest.fixture(scope="module")
def small() -> Pipeline:
    return Pipeline(tiny("infinity"))


def test_the_table_is_complete(large: Pipeline) -> None:
    assert {length: len(schedules) for length, schedules in SIZES.items()} == dict.fromkeys(BUDGETS.values(), 15)
    assert set(large.model.sizes()) == {large.model.picture_size(schedule) for schedule in SCHEDULES.values()}


@pytest.mark.parametrize("text", PLANNED)
def test_every_size_has_a_plan_with_a_gain(large: Pipeline, text: str) -> None:
    """60 sizes without weights: the course that is taken or rehearsed, and what it saves."""
    accelerator = parse(text)
    for schedule in SCHEDULES.values():
        h, w = large.model.picture_size(schedule)
        plan = rehearse(accelerator, planned(large, schedule, text), schedule)
        assert len(plan) == len(schedule)
        assert plan.executed == tuple(range(plan.executed[-1] + 1)), "a scale is left out before others that run"
        assert len(plan.executed) >= len(plan) - (4 if text == "drop_last(4)" else 2)
        stages = [STAGES.index(scale.stage) for scale in plan if scale.stage]
        assert stages == sorted(stages)
        assert plan[0].branch == "both" and plan[0].tokens is None
        answer = explain(large.model, text, height=h, width=w)
        assert answer["size"] == [h, w]
        assert [row["run"] for row in answer["rows"]] == [scale.run for scale in plan]
        assert all(0 <= row["kept"] <= 1 for row in answer["rows"])
        assert (
            (answer["flop_ratio"] == 1)
            if text in ("none", "half_cache")
            else (answer["flop_ratio"] > least(text, h * w))
        ), (h, w)


def least(text: str, pixels: int) -> float:
    """What an accelerator saves by operations at least, at a picture of this area."""
    if text in FOR_QUALITY:
        return 0.99
    return 0.98 if text in ATTENTION_ALONE and pixels < 640 * 640 else 1.05


@pytest.mark.parametrize("text", ["stagevar_released", *CONTROLS, SUMS[0]])
def test_positions_are_counted_from_the_end(large: Pipeline, text: str) -> None:
    """Scales of one budget are treated alike, whatever the height and width of their grids."""
    for schedules in SIZES.values():
        plans = [planned(large, schedule, text) for schedule in schedules]
        assert len({tuple((s.run, s.branch, s.tokens, s.stage) for s in plan) for plan in plans}) == 1


def test_the_paper_s_fidelity_scales_are_those_of_a_share(large: Pipeline) -> None:
    for schedule in SCHEDULES.values():
        plan = planned(large, schedule, "stagevar_paper")
        fidelity = [at.share >= FIDELITY_SHARE for at in scales(schedule)]
        assert [scale.branch == "null" for scale in plan] == fidelity
        assert [scale.tokens is not None for scale in plan] == fidelity
        assert sum(fidelity) in (2, 3)


@pytest.mark.parametrize("size", [(32, 32), (54, 18), (18, 54), (42, 24), (40, 100)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("text", RUN)
def test_a_picture_is_its_own_in_batches_of_three_and_eight(small: Pipeline, text: str, size: tuple[int, int]) -> None:
    count = 8 if size[0] * size[1] < 2000 else 3
    requests = expand(PROMPTS[:count], seed=5, height=size[0], width=size[1], accelerator=text)
    alone, plans = drawn(small, requests, 1)
    assert len({tuple(latent.flatten().tolist()) for latent in alone}) == count, "pictures are alike"
    for batch_size in (3, 8):
        together, same = drawn(small, requests, batch_size)
        assert same == plans
        for latent, other in zip(alone, together, strict=True):
            assert torch.allclose(latent, other, atol=1e-4)


@pytest.mark.parametrize("text", ["stagevar", "stagevar_paper", "stagevar_released"])
def test_the_largest_budget_runs_at_the_most_extreme_ratio(small: Pipeline, text: str) -> None:
    """13 scales up to 37x111 tokens."""
    [latent], [plan] = drawn(small, [Request("a star", height=74, width=222, accelerator=text)], 1)
    assert latent.shape[-2:] == (37, 111) and torch.isfinite(latent).all()
    assert len(plan) == 13


def drawn(pipeline: Pipeline, requests: list[Request], batch_size: int) -> tuple[list[torch.Tensor], list[Plan]]:
    """Latents and final plans in the order of the requests; what ran is what the plans say."""
    plans: dict[int, Plan] = {}
    for event in pipeline.events(requests, batch_size=batch_size, output_type="latent"):
        plans.update(zip(event.images, event.plans, strict=True))
    assert event.result is not None
    for i, plan in plans.items():
        assert event.result.trace.executed(i) == plan.executed
    return event.result.images, [plans[i] for i in range(len(requests))]
