"""Our own rule: what each scale is held against, and what it decides at and on either side of the border."""

import json
import math
from dataclasses import replace

import pytest
import torch

from stagevar.accelerators.base import Facts
from stagevar.accelerators.foreseen import QUALITIES, Foreseen, bound
from stagevar.accelerators.stagevar import SHIPPED, StageVAR, tokens_share
from stagevar.engine.grids.grid import Scale
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.signals import SETTLED, SUPPORT_ENERGIES, Signals, coverage
from stagevar.errors import OptionError
from stagevar.families.infinity.grids import SCHEDULES
from stagevar.fit import Fit
from stagevar.registry import parse

HALVES = ((1, 1), (1, 1))
"""Two scales, each with half of all tokens."""


def signals(**fields):
    support = tuple(share / 10 for share in range(1, len(SUPPORT_ENERGIES) + 1))
    usual = {"flips": 0.2, "confidence": 0.9, "low": 0.5, "middle": 0.9, "high": 0.9, "support": support}
    return Signals(**usual | fields)


def test_stages_move_forward_only_and_each_is_held_against_the_price_of_the_next_scale():
    schedule = SCHEDULES[64, 64]
    accelerator, plan = parse("stagevar(quality=0.4)"), Plan.uniform(13, guidance=3.0)
    plan = accelerator.revise(plan, Scale(schedule, 8), signals())
    assert {s.stage for s in plan.scales[9:]} == {"semantic"} and plan.scales[9].branch == "both"
    plan = accelerator.revise(plan, Scale(schedule, 9), signals(low=0.1))
    assert {s.stage for s in plan.scales[10:]} == {"structure"}
    assert {(s.branch, s.tokens) for s in plan.scales[10:]} == {("both", None)}
    plan = accelerator.revise(plan, Scale(schedule, 10), signals(low=0.9, flips=0.1))
    assert {s.stage for s in plan.scales[11:]} == {"structure"}
    assert [s.branch for s in plan] == ["both"] * 11 + ["cond"] * 2 and plan[11].tokens is None
    plan = accelerator.revise(plan, Scale(schedule, 11), signals(middle=0.2, flips=None))
    assert plan[12].stage == "fidelity" and plan[12].cache == "none"
    assert plan[12].tokens == Select(plan[12].tokens.keep, score="contrast", restore_by="zero_code")
    same = {"low": 0.1, "middle": 0.5, "flips": 0.1}
    early = accelerator.revise(Plan.uniform(13, guidance=3.0), Scale(schedule, 3), signals(**same))
    late = accelerator.revise(Plan.uniform(13, guidance=3.0), Scale(schedule, 11), signals(**same))
    assert (early[4].stage, early[4].branch) == ("semantic", "both")
    assert (late[12].stage, late[12].branch) == ("fidelity", "cond")


def test_guidance_that_was_not_measured_is_kept():
    """A plan that guides hidden states yields no flips; that is not the same as no flips."""
    plan = Plan.uniform(13, guidance=3.0, guidance_layer=2).replace(range(13), stage="structure")
    revised = parse("stagevar").revise(plan, Scale(SCHEDULES[64, 64], 10), signals(low=0.0, middle=9.0, flips=None))
    assert {scale.branch for scale in revised} == {"both"}


def test_a_decision_is_about_the_next_scale_that_runs():
    at, seen = Scale(SCHEDULES[64, 64], 9), signals(low=0.01, middle=0.01, flips=0.0)
    plan = Plan.uniform(13, guidance=3.0).replace([10, 11], run="skip")
    revised = parse("stagevar").revise(plan, at, seen)
    assert [scale.tokens is None for scale in revised] == [True] * 12 + [False]
    assert revised[12].branch == "cond" and revised[12].stage == "fidelity"
    assert parse("stagevar").revise(revised, at, seen) == revised, "asked again, nothing more changes"
    price = parse("stagevar").revise(Plan.uniform(13, guidance=3.0), at, signals(low=0.01, middle=0.7, flips=0.0))
    assert price[10].stage == "structure", "the price of scale 10, which runs"
    assert parse("stagevar").revise(plan, at, signals(low=0.01, middle=0.7, flips=0.0))[12].stage == "fidelity"


def test_behind_the_last_scale_that_runs_nothing_is_decided():
    plan = Plan.uniform(13, guidance=3.0).replace([12], run="skip")
    assert parse("stagevar").revise(plan, Scale(SCHEDULES[64, 64], 11), signals(low=0.0)) == plan
    assert parse("stagevar").revise(Plan.uniform(1), Scale(((1, 1),), 0), signals(low=0.0)) == Plan.uniform(1)


def test_kept_positions_follow_the_picture_and_the_dial():
    schedule = SCHEDULES[64, 64]

    def keep(quality, **fields):
        plan = Plan.uniform(13).replace(range(13), stage="fidelity", branch="cond")
        tokens = parse(f"stagevar(quality={quality})").revise(plan, Scale(schedule, 11), signals(**fields))[12].tokens
        return 1.0 if tokens is None else tokens.keep

    by_dial = [keep(quality) for quality in (0.0, 0.25, 0.5, 0.75, 0.99)]
    assert by_dial == sorted(by_dial) and by_dial[0] < by_dial[-1]
    plain, textured = ((share,) * len(SUPPORT_ENERGIES) for share in (0.01, 0.6))
    assert keep(0.0, support=plain) == 1 / 16 < keep(0.5, support=textured) == 0.625


@pytest.mark.parametrize(("quality", "price"), [(0.0, 1.6), (0.5, 1.6 * 0.5 ** (4 / 3)), (0.9, 1.6 * 0.1 ** (4 / 3))])
def test_a_scale_that_flips_no_more_codes_than_its_price_runs_one_branch(quality, price):
    border, plan = price / 2, Plan.uniform(2, guidance=3.0, stage="structure")

    def branch(flips):
        return parse(f"stagevar(quality={quality})").revise(plan, Scale(HALVES, 0), signals(flips=flips))[1].branch

    assert (branch(border * 0.999), branch(border * 1.001)) == ("cond", "both")
    assert quality or branch(border) == "cond"


@pytest.mark.parametrize(
    ("band", "rate", "from_stage", "to"),
    [
        ("low", 1.5, "semantic", "structure"),
        ("middle", 3.0, "structure", "fidelity"),
    ],
)
def test_a_band_that_changes_no_more_than_its_rate_times_the_price_ends_a_stage(band, rate, from_stage, to):
    border, plan = rate * 1.6 / 2, Plan.uniform(2, guidance=3.0, stage=from_stage)

    def stage(change):
        seen = signals(**{"low": 9.0, "middle": 9.0, band: change})
        return parse("stagevar(quality=0.0)").revise(plan, Scale(HALVES, 0), seen)[1].stage

    assert [stage(change) for change in (border * 0.999, border, border * 1.001)] == [to, to, from_stage]


def test_a_picture_without_its_layout_keeps_both_branches_however_few_codes_guidance_flips():
    plan = Plan.uniform(2, guidance=3.0)
    revised = parse("stagevar(quality=0.0)").revise(plan, Scale(HALVES, 0), signals(low=9.0, flips=0.0))
    assert revised[1].stage == "semantic" and revised[1].branch == "both"


def test_full_quality_keeps_the_plan_even_where_nothing_changes_any_more():
    plan = Plan.uniform(13, guidance=3.0)
    assert parse("stagevar(quality=1.0)").revise(plan, Scale(SCHEDULES[64, 64], 9), SETTLED) == plan
    assert parse("stagevar(quality=0.99)").revise(plan, Scale(SCHEDULES[64, 64], 9), SETTLED) != plan


@pytest.mark.parametrize(("quality", "left_out"), [(0.0, 0.12), (0.5, 0.12 / 16)])
def test_positions_are_kept_that_hold_all_but_the_stated_share_of_the_contrast(quality, left_out):
    plan = Plan.uniform(2).replace([0, 1], stage="fidelity", branch="cond")
    seen = signals(support=tuple(energy**18 for energy in SUPPORT_ENERGIES))
    keep = parse(f"stagevar(quality={quality})").revise(plan, Scale(HALVES, 0), seen)[1].tokens.keep
    assert keep == round(16 * coverage(seen.support, 1 - left_out)) / 16


def test_a_picture_with_detail_everywhere_runs_all_rows_and_keeps_them_for_later():
    plan = Plan.uniform(3, guidance=3.0).replace([0, 1, 2], stage="fidelity", branch="cond")
    revised = parse("stagevar").revise(plan, Scale((*HALVES, (1, 1)), 0), signals(support=(1.0,) * 9))
    assert (revised[1].tokens, revised[1].cache) == (None, "all")


def test_the_share_of_a_scale_is_that_of_its_tokens():
    schedule = ((1, 1), (2, 3), (3, 3))
    assert [tokens_share(Scale(schedule, k)) for k in range(3)] == [1 / 16, 6 / 16, 9 / 16]


def test_close_to_full_quality_a_picture_that_still_changes_is_the_plain_run():
    """So the dial has no step at its end: what a scale of detail shows is above every price there."""
    plan = Plan.uniform(13, guidance=3.0, stage="structure")
    revised = parse("stagevar(quality=0.98)").revise(
        plan, Scale(SCHEDULES[64, 64], 11), signals(flips=0.01, middle=0.02)
    )
    assert revised == plan


# --- a target per picture ---------------------------------------------------------------------------------------------

STEEP = tuple((math.log(0.2) - 2 * quality, 1.0, *(0.0,) * 11) for quality in QUALITIES)
"""Bounds by which quality q loses at most .2 e^(x - 2q), where x is the first number."""

FACTS = Facts(depth=6, groups=6, causal=True, model="scenes")


def shipped() -> Fit:
    return Fit.load(SHIPPED)


@pytest.mark.parametrize(("x", "quality"), [(-1.0, 0.0), (0.0, 0.45), (0.5, 0.6), (1.05, 0.9), (1.2, 1.0)])
def test_the_fastest_quality_is_taken_that_is_foretold_to_keep_the_target(x, quality):
    assert Foreseen(bounds=STEEP).quality((x, *(0.0,) * 11), 0.9) == quality


def test_a_picture_runs_in_full_until_it_is_foretold_and_then_by_its_own_quality():
    schedule = shipped().schedule
    accelerator = StageVAR(target=0.9)
    plan = accelerator.plan(Plan.uniform(10, guidance=2.0), schedule, FACTS)
    [decides] = [k for k in range(10) if plan[k].watch]
    assert Scale(schedule, decides).share == 0.5
    own = Foreseen(bounds=STEEP)
    before = replace(SETTLED, support=(0.2,) * 9)
    assert accelerator.revise(plan, Scale(schedule, decides - 1), before) == plan
    for x, quality in ((-1.0, 0.0), (0.5, 0.6)):
        seen = replace(before, watched={own: (x, *(0.0,) * 11)})
        later = replace(before, before=seen)
        for at, shown in ((decides, seen), (decides + 1, later)):
            by_target = accelerator.revise(plan, Scale(schedule, at), shown)
            assert by_target == StageVAR(quality).revise(plan, Scale(schedule, at), shown) != plan
        told, *changes = accelerator.reasons(plan, Scale(schedule, decides), seen)
        assert (told.about, told.value) == ("quality for the target", quality) and len(changes) == 3
        assert len(accelerator.reasons(plan, Scale(schedule, decides + 1), later)) == 3
    hard = replace(before, watched={own: (3.0, *(0.0,) * 11)})
    assert accelerator.revise(plan, Scale(schedule, decides), hard) == plan
    assert [reason.value for reason in accelerator.reasons(plan, Scale(schedule, decides), hard)] == [1.0]


def test_a_bound_holds_for_nine_in_ten_that_it_was_not_fitted_to():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 5, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -0.5, 0.0, 0.2, 0.0], dtype=torch.float64) + torch.randn(2000, generator=generator)
    constant, *weights = bound(x[:100], y[:100])
    held = (y[100:] <= constant + x[100:] @ torch.tensor(weights, dtype=torch.float64)).double().mean()
    assert 0.84 < held < 0.96
    assert torch.allclose(torch.tensor(weights), torch.tensor([1.0, -0.5, 0.0, 0.2, 0.0]), atol=0.35)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stagevar(target=1.0)", "target must be an SSIM"),
        ("stagevar(target=-0.1)", "target must be an SSIM"),
        ("stagevar(quality=0.3, target=0.9)", "leave one of the two out"),
    ],
)
def test_a_target_that_means_nothing_is_refused(text, message):
    with pytest.raises(OptionError, match=message):
        parse(text)


def test_a_target_needs_numbers_for_the_model_the_size_and_the_qualities(tmp_path):
    plan, schedule = Plan.uniform(13, guidance=3.0), SCHEDULES[64, 64]
    with pytest.raises(
        OptionError, match=r"no fit for model 'other' .*calibrate --accelerator \"stagevar\(target=0.9\)\""
    ):
        StageVAR(target=0.9).plan(plan, schedule, replace(FACTS, model="other"))
    with pytest.raises(OptionError, match="before the last one"):
        StageVAR(target=0.9).plan(Plan.uniform(1), ((4, 4),), FACTS)
    fit, path = shipped(), tmp_path / "fit.json"
    skipped = Plan.uniform(10, guidance=2.0).replace([StageVAR(target=0.9).looks(fit.schedule)[0]], run="skip")
    with pytest.raises(OptionError, match="which decides, does not run"):
        StageVAR(target=0.9).plan(skipped, fit.schedule, FACTS)
    for numbers in ({}, {"bounds": [[1.0]]}, {"bounds": "x"}, {"bounds": [[0.0] * 12] * len(QUALITIES)}):
        path.write_text(json.dumps(replace(fit, numbers={"fills": [], **numbers}).to_dict()))
        with pytest.raises(OptionError, match="damaged fit"):
            StageVAR(target=0.9, fit=str(path)).plan(Plan.uniform(10), fit.schedule, FACTS)
