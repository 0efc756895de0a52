"""Codes that are given: whole scales and single positions, drawn or not, with rows or without."""

import pytest
import torch

from stagevar.engine.contract.model import Defaults
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.families.star.second_stage import SamplerConfig
from stagevar.families.tiny import tiny

PROMPTS = ["a red circle", "two yellow rings"]
MODELS = {family: tiny(family) for family in ("infinity", "scenes", "var", "hart", "switti")}
MODELS["star"] = tiny("star", sampler=SamplerConfig(first=4, rounds=4, last_rounds=5, early=2))
for each in MODELS.values():
    each.defaults = Defaults()
MODELS["hart"].refined = False  # the residual has tests of its own, as it enlarges rounding 20000 times
families = pytest.mark.parametrize("family", list(MODELS))


def schedule_of(model):
    return model.schedule()[:6]


def steps(model, plans, seeds, forced=None, tap=None):
    prompts = ["7", "8"] if model.family == "var" else PROMPTS
    condition = model.condition(model.encode_text(prompts[: len(plans)]))
    return list(run(model, condition, schedule_of(model), plans, seeds, forced=forced, tap=tap))


def plain(model, **fields):
    return Plan.uniform(len(schedule_of(model)), guidance=2.0, **fields)


def some_known(model, share=0.5):
    """Codes of two other pictures, of which about half the positions are given."""
    found = {step.scale: step.codes for step in steps(model, [plain(model)] * 2, [7, 8])}
    known = {k: torch.rand(codes.shape[:2]) < share for k, codes in found.items()}
    return {k: torch.where(known[k].view(*known[k].shape, *[1] * (c.dim() - 2)), c, -1) for k, c in found.items()}


@families
def test_given_codes_are_taken_and_the_others_drawn(family):
    model = MODELS[family]
    known = some_known(model)
    free = steps(model, [plain(model)] * 2, [1, 2])
    for step in steps(model, [plain(model)] * 2, [1, 2], known):
        given = known[step.scale] >= 0
        assert torch.equal(step.codes[given], known[step.scale][given])
        assert (step.codes >= 0).all()
    assert not torch.equal(step.codes[~given], free[-1].codes[~given])


@families
def test_a_batch_of_given_codes_equals_its_pictures_alone(family):
    model = MODELS[family]
    known = some_known(model)
    plans = [plain(model), plain(model, temperature=0.7)]
    together = steps(model, plans, [1, 2], known)
    alone = steps(model, plans[:1], [1], {k: codes[:1] for k, codes in known.items()})
    torch.testing.assert_close(together[-1].latent[:1], alone[-1].latent, atol=1e-4, rtol=1e-4)


@families
def test_the_codes_of_a_run_repeat_it_with_any_seed(family):
    model = MODELS[family]
    first = steps(model, [plain(model)] * 2, [1, 2])
    again = steps(model, [plain(model)] * 2, [8, 9], {step.scale: step.codes for step in first})
    assert torch.equal(first[-1].latent, again[-1].latent)


@families
def test_given_codes_count_where_no_rows_run(family):
    """At a skipped scale, and at positions that a reduction leaves without codes."""
    model, last = MODELS[family], len(schedule_of(MODELS[family])) - 1
    known = some_known(model)
    for change in ({"run": "skip"}, {"tokens": Select(0.3, restore_by="zero_code")}):
        step = steps(model, [plain(model).replace([last], **change)] * 2, [1, 2], known)[-1]
        given = known[last] >= 0
        assert torch.equal(step.codes[given], known[last][given])
        drawn = (step.codes[~given] >= 0).float().mean()
        assert drawn == 0 if "run" in change else 0 < drawn < 0.5
        latent = steps(model, [plain(model).replace([last], run="skip")] * 2, [1, 2], {**known, last: step.codes})
        torch.testing.assert_close(latent[-1].latent, step.latent, atol=1e-4, rtol=1e-4)


def test_a_single_bit_can_be_given():
    model = MODELS["infinity"]
    known = {3: torch.full_like(some_known(model)[3], -1)}
    known[3][..., 2] = 1
    codes = steps(model, [plain(model)] * 2, [1, 2], known)[3].codes
    assert (codes[..., 2] == 1).all() and not (codes[..., 3] == 1).all()


def test_weights_over_codes_give_way_to_given_ones():
    model = MODELS["var"]
    known = some_known(model)
    step = steps(model, [plain(model, smooth=0.5)] * 2, [1, 2], known)[-1]
    given = known[step.scale] >= 0
    assert torch.equal(step.codes[given], known[step.scale][given])


def test_the_second_stage_reads_given_codes():
    """What is drawn beside a given code follows it, within the scale that it belongs to."""
    model, drawn = MODELS["star"], []
    for code in (3, 40):
        known = torch.full((1, 64), -1)
        known[:, :32] = code
        drawn.append(steps(model, [plain(model)], [1], {5: known})[5].codes[0, 32:])
    assert not torch.equal(*drawn)


def test_a_residual_belongs_to_drawn_codes_alone():
    model, seen = tiny("hart"), {}
    model.defaults = Defaults()
    last = len(model.schedule()) - 1
    codes = steps(model, [plain(model)], [1])[last].codes
    half = codes.clone()
    half[:, 32:] = -1
    for name, known in (("all", codes), ("half", half)):
        steps(
            model, [plain(model)], [1], {last: known}, lambda kind, k, x, name=name: seen.__setitem__((name, kind), x)
        )
    assert ("all", "residual") not in seen
    rows = seen["half", "residual"].flatten(2)
    assert not rows[..., :32].any() and rows[..., 32:].any(1).all()
