"""ToProVAR and NOVA: when pruning begins, what is pruned, and what they refuse."""

import math
from dataclasses import replace

import pytest
import torch

from stagevar.accelerators.base import Facts
from stagevar.accelerators.nova import CODES, NOVA
from stagevar.accelerators.toprovar import EntropyMap, ToProVAR, singular_ratio
from stagevar.engine.grids.grid import Scale
from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import SETTLED
from stagevar.engine.plan.watch import AttentionEntropy
from stagevar.errors import OptionError
from stagevar.families.infinity.grids import SCHEDULES
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import Request

SQUARE = SCHEDULES[64, 64]
PLAIN = Plan.uniform(13, guidance=3.0)
FACTS = Facts(32, 2, True)


def told(accelerator, plan, numbers, schedule=SQUARE):
    """The plan behind the last scale that numbers are given for: by scale, the numbers of every watch's kind."""
    before = None
    for k, by_kind in numbers.items():
        watched = {}
        for kind, values in by_kind.items():
            own = [watch for watch in plan[k].watch if type(watch) is kind]
            watched |= dict(zip(own, values, strict=True)) if own else {}
        before = replace(SETTLED, watched=watched, before=before)
        plan = accelerator.revise(plan, Scale(schedule, k), before)
    return plan


def test_the_ratio_of_singular_values_is_that_of_the_decomposition():
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(3, side, 4, generator=generator)).Q for side in (12, 9))
    for ratio in (1.3, 2.0, 10.0):
        values = torch.tensor([ratio, 1.0, 0.4, 0.1])
        maps = u * values @ v.mT
        assert singular_ratio(maps).tolist() == pytest.approx([ratio] * 3, rel=1e-2)
    single = u[..., :1] @ v[..., :1].mT
    assert singular_ratio(single).tolist() == [100.0] * 3
    assert singular_ratio(torch.zeros(2, 4, 4)).tolist() == [1.0] * 2


def test_toprovar_watches_late_scales_and_begins_behind_the_first_of_enough_narrow_rows():
    accelerator = ToProVAR(tau=0.4, a_max=0.9, beta=1.0)
    plan = accelerator.plan(PLAIN, SQUARE, Facts(32, 4, True))
    assert [k for k in range(13) if plan[k].watch] == list(range(6, 12))
    assert plan[6].watch == tuple(EntropyMap(block) for block in (0.125, 0.375, 0.625, 0.875))
    half = 1.0 + math.log(2)
    few, enough = [(0.3, 1.0)] * 3 + [(0.5, 1.0)], [(0.5, 1.0), (0.3, half), (0.3, half), (0.6, 1.0)]
    assert told(accelerator, plan, {6: {EntropyMap: few}}) == plan
    begun = told(accelerator, plan, {6: {EntropyMap: few}, 7: {EntropyMap: enough}})
    assert begun.scales[:8] == plan.scales[:8]
    for k in range(8, 13):
        share = 0.9 * SQUARE[k][0] / 64
        rules = [
            PartRows(math.floor(16 * part) / 16, layers=(group / 4, (group + 1) / 4), score=watch, score_source=7)
            for group, (part, watch) in enumerate(zip((share, share / 2, share / 2, share), plan[7].watch, strict=True))
        ]
        assert begun[k].parts == tuple(rules)
        assert begun[k].watch == begun[k].remember == ()
    assert told(accelerator, begun, {8: {EntropyMap: enough}}) == begun


@pytest.mark.parametrize(("ratios", "pruned"), [((50, 1, 1, 50), {1, 2}), ((1, 50, 60, 1), {0, 3}), ((50,) * 4, set())])
def test_blocks_that_arrange_the_picture_run_in_full(ratios, pruned):
    accelerator = ToProVAR()
    plan = accelerator.plan(PLAIN, SQUARE, Facts(32, 4, True))
    begun = told(accelerator, plan, {6: {EntropyMap: [(0.5, ratio) for ratio in ratios]}})
    assert {rule.layers for scale in begun for rule in scale.parts} == {(g / 4, (g + 1) / 4) for g in pruned}


def test_judgements_are_means_in_quarters():
    accelerator = ToProVAR(a_max=1.0)
    plan = accelerator.plan(PLAIN, SQUARE, Facts(32, 4, True))
    ratios = [1 - math.log(detail) for detail in (0.8, 0.45, 0.35, 0.6)]
    begun = told(accelerator, plan, {6: {EntropyMap: [(0.5, ratio) for ratio in ratios]}})
    assert [rule.prune for rule in begun[12].parts] == [0.75, 0.5, 0.5, 0.75]


def grown(entropies, widths=((0.5,), (0.5,))):
    return {k: {type(CODES): [(value,)], AttentionEntropy: widths} for k, value in enumerate(entropies)}


def test_nova_begins_where_the_entropy_of_codes_changes_less_than_over_the_early_scales():
    accelerator = NOVA(rho=1.0, lam=1.0, mu=1.0)
    plan = accelerator.plan(PLAIN, SQUARE, FACTS)
    assert [len(plan[k].watch) for k in range(13)] == [1] * 9 + [3] * 3 + [0]
    for sign in (1, -1):
        early = [0.5 + sign * 0.05 * k for k in range(9)]
        assert told(accelerator, plan, grown([*early, early[8] + sign * 0.06])) == plan, "still changing faster"
        begun = told(accelerator, plan, grown([*early, early[8] + sign * 0.06, early[8] + sign * 0.05]))
        assert not any(scale.parts for scale in (*begun.scales[:11], begun[12]))
        share = 1 / (1 + math.exp(math.tanh(-sign * 0.01) - 12 / 12))
        prune = math.floor(16 * share) / 16
        assert begun[11].parts == tuple(PartRows(prune, layers=layers, score=CODES) for layers in ((0, 0.5), (0.5, 1)))
        assert begun[11].remember == () and begun[12].remember
        assert [len(begun[k].watch) for k in range(9, 13)] == [3, 3, 1, 0]


def test_nova_prunes_more_at_later_scales_and_less_where_entropy_grows_and_blocks_look_widely():
    accelerator, flat = NOVA(rho=0.5), [0.5] * 10
    plan = accelerator.plan(PLAIN, SQUARE, FACTS)

    def pruned(entropies, widths=((0.5,), (0.5,))):
        begun = told(accelerator, plan, grown(entropies, widths))
        return [rule.prune for rule in begun[len(entropies)].parts]

    shares = [pruned([*flat, *[0.5] * more])[0] for more in range(3)]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    assert pruned([*flat, 0.9])[0] < pruned([*flat, 0.5])[0]
    narrow, wide = pruned(flat, ((0.4,), (0.3,))), pruned(flat, ((0.4,), (0.5,)))
    assert narrow[0] == wide[0] and narrow[1] > narrow[0] > wide[1]
    assert pruned(flat, ((0.4,), (0.8,)))[1:] == [], "twice as wide: in full"


@pytest.mark.parametrize("identity", ["toprovar(a_max=0.0)", "toprovar(tau=1.0)"])
def test_at_the_identity_setting_the_picture_is_the_plain_one(identity):
    pipe = Pipeline(tiny("infinity"))
    plain, found = (
        pipe("a red star", seed=1, accelerator=accelerator, output_type="latent").images[0]
        for accelerator in ("none", identity)
    )
    assert torch.equal(plain, found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("drop_last(4)+toprovar", "no two scales from 0.19"),
        ("drop_last(2)+nova", "runs 3 scales, and 4 are needed"),
        ("toprovar+nova", "both decide the axis 'parts'"),
        ("toprovar(tau=1.5)", "tau"),
        ("toprovar(beta=-1.0)", "beta"),
        ("nova(rho=-1.0)", "rho"),
    ],
)
def test_what_cannot_run_is_refused_before_drawing(text, reason):
    with pytest.raises(OptionError, match=reason):
        Pipeline(tiny("scenes")).prepare(Request("a red star", accelerator=text))
