"""Operations of plans: counted from shapes, compared with what torch counts while the loop runs."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stagevar.accelerators.sparsevar import Anchored, Moving
from stagevar.accelerators.ssg import FromPrior
from stagevar.accelerators.stepvar import StructureTexture
from stagevar.engine.grids.grid import Scale
from stagevar.engine.loop.run import run
from stagevar.engine.plan.evict import Recent, WindowVotes
from stagevar.engine.plan.local import Local
from stagevar.engine.plan.merge import Merge
from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.similar import SelfSimilar
from stagevar.engine.plan.watch import Activity, AttentionEntropy, CodeEntropy, Seen, Thumbnail
from stagevar.errors import OptionError, UnknownModelError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.star.second_stage import SamplerConfig
from stagevar.families.tiny import tiny
from stagevar.families.tokenizers.vq import VQTokenizer
from stagevar.loading.sources import skeleton
from stagevar.measure.predict.explain import explain
from stagevar.measure.predict.flops import SOLVING, condition_flops, plan_flops
from stagevar.measure.predict.rehearse import MEAN_PICTURE, signals_at
from stagevar.pipeline import Pipeline
from stagevar.request import Request

MODELS = {family: tiny(family) for family in ("infinity", "scenes", "star", "hart", "switti", "var")}
MODELS["star-sampler"] = tiny("star", sampler=SamplerConfig(first=5, last_rounds=3, depth=2))
ACCELERATORS = [
    "none",
    "drop_last(1)",
    "guidance_off(2)",
    "reuse_last(1)",
    "drop_last(4)",
    "lazyvar",
    "toprovar",
    "nova",
    "stagevar_released",
    "stagevar_paper",
    "drop_last(1)+guidance_off(2)",
    "depthvar((0.6, 0.4))",
    "sparsevar",
]
TOKENS = {
    "increment": Select(0.5),
    "hidden in groups": Select(0.3, restore_by="hidden", scope="group"),
    "lowrank": Select(0.25, restore_by="lowrank"),
    "dense ends": Select(0.4, restore_by="nearest", dense=(0.2, 0.2)),
    "zero_code": Select(0.4, restore_by="zero_code"),
    "merge": Merge(0.25),
    "structure": StructureTexture(0.6),
}


PARTS = {
    "all": (PartRows(0.4),),
    "attention not run": (PartRows(1.0, ("attention",), (0.3, 1.0)), PartRows(0.5, fill="zero", score="contrast")),
    "cross": (PartRows(0.7, ("cross",), score="change", mode="area"),),
}


def counted(model, plan):
    """What torch counts, and the rows of the trace, for one image; a tokenizer's convolutions are not looked at."""
    if isinstance(model.tokenizer, VQTokenizer):
        model.tokenizer.refine = lambda x, *_: x
    schedule = model.schedule()
    condition = model.condition(model.encode_text(["7" if model.family == "var" else "a red star"]))
    mapping = {"display": False, "custom_mapping": SOLVING}
    with FlopCounterMode(**mapping) as counter, sdpa_kernel(SDPBackend.MATH):
        steps = list(run(model, condition, schedule, [plan], [0]))
    length = condition.text_kv[0][0].shape[2] if condition.text_kv else 0
    return counter.get_total_flops(), [step.records[0].rows for step in steps], length


def test_keeping_all_rows_takes_no_work_to_restore_them():
    model = MODELS["scenes"]
    plan = Plan.uniform(5).replace([3], tokens=Select(1.0, restore_by="lowrank"))
    assert plan_flops(model, model.schedule(), plan, 5)[3].tokens == 0


def close_to_torch(model, plan):
    total, rows, length = counted(model, plan)
    own = plan_flops(model, model.schedule(), plan, length)
    assert [row.rows for row in own] == rows
    assert sum(row.total for row in own) == pytest.approx(total, rel=0.02)


@pytest.mark.parametrize("family", list(MODELS))
@pytest.mark.parametrize("text", ACCELERATORS)
def test_accelerated_plans_cost_what_torch_counts(family, text):
    model = MODELS[family]
    close_to_torch(model, Pipeline(model).prepare(Request("x", smooth=False, accelerator=text)).plan)


@pytest.mark.parametrize("family", list(MODELS))
@pytest.mark.parametrize("tokens", TOKENS.values(), ids=TOKENS)
def test_reduced_plans_cost_what_torch_counts(family, tokens):
    model = MODELS[family]
    count = len(model.schedule())
    close_to_torch(model, Plan.uniform(count).replace([count - 2], cache="none").replace([count - 1], tokens=tokens))
    if not tokens.final:
        close_to_torch(model, Plan.uniform(count).replace(range(2, count), tokens=tokens))


@pytest.mark.parametrize("family", list(MODELS))
@pytest.mark.parametrize("rules", PARTS.values(), ids=PARTS)
def test_parts_on_fewer_rows_cost_what_torch_counts(family, rules):
    model = MODELS[family]
    count = len(model.schedule())
    close_to_torch(model, Plan.uniform(count).replace([count - 2, count - 1], parts=rules))
    few = Plan.uniform(count).replace([count - 1], parts=tuple(replace(rule, source=1) for rule in rules))
    close_to_torch(model, few.replace([count - 1], tokens=Select(0.5, restore_by="nearest")))


@pytest.mark.parametrize("family", list(MODELS))
def test_what_is_watched_costs_what_torch_counts(family):
    model = MODELS[family]
    count, watch = len(model.schedule()), (AttentionEntropy(0.0), AttentionEntropy(0.6), Activity(), CodeEntropy())
    plan = Plan.uniform(count).replace([count - 2], watch=watch)
    close_to_torch(model, plan)
    chosen = PartRows(0.5, score=watch[0], source=count - 2)
    close_to_torch(model, plan.replace([count - 1], parts=(chosen,)))
    plain, watched = (plan_flops(model, model.schedule(), each, 5)[count - 2] for each in (Plan.uniform(count), plan))
    assert watched.attention == pytest.approx(plain.attention * (1 + 2 / (2 * model.depth)), rel=0.1)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_thumbnails_cost_what_torch_counts(family):
    model, watch = tiny(family), Thumbnail(8)
    schedule, count = model.schedule(), len(model.schedule())
    plan = Plan.uniform(count).replace([count - 2], watch=(watch,))
    latent = torch.randn(model.empty_latent(1, schedule).shape)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        watch.numbers(Seen(Scale(schedule, count - 2), None, latent, latent, model.decode, model.picture_size))
    for each in (model, tiny(family).to("meta")):
        assert plan_flops(each, schedule, plan, 5)[count - 2].watch == counter.get_total_flops()
    assert not any(row.watch for row in plan_flops(model, schedule, Plan.uniform(count), 5))


@pytest.mark.parametrize("family", list(MODELS))
@pytest.mark.parametrize("rows", [{}, {"tokens": Select(0.5, restore_by="nearest")}, {"parts": (PartRows(0.4),)}])
def test_patterns_and_evictions_cost_what_torch_counts(family, rows):
    model = MODELS[family]
    count, votes = len(model.schedule()), WindowVotes((40,) * model.depth)
    pattern = Local((1, 3), 1, 8, (0.3, 1.0))
    plan = Plan.uniform(count).replace(range(2, count), cache=votes).replace([count - 1], attend=(pattern,), **rows)
    close_to_torch(model, plan)
    close_to_torch(model, Plan.uniform(count, cache=Recent(2, 1)).replace([count - 1, count - 2], attend=(pattern,)))


@pytest.mark.parametrize("family", list(MODELS))
def test_anchored_rows_cost_what_torch_counts(family):
    model, tokens = MODELS[family], Anchored(0.4, Moving(), 3, 0.5, 2)
    count = len(model.schedule())
    plan = Plan.uniform(count).replace([2], watch=(Moving(),))
    close_to_torch(model, plan.replace(range(3, count), tokens=tokens, gain=tokens))


@pytest.mark.parametrize("family", ["infinity", "star", "hart", "switti", "var"])
def test_corrected_logits_cost_what_torch_counts(family):
    model = MODELS[family]
    count = len(model.schedule())
    plan = Plan.uniform(count).replace(range(1, count), correct=FromPrior(0.2))
    close_to_torch(model, plan.replace([count - 1], branch="cond", tokens=Select(0.5, restore_by="zero_code")))


GROUPS = {
    "all rows": {},
    "few rows": {"tokens": Select(0.4, restore_by="zero_code")},
    "parts": {"parts": (PartRows(0.5, source=1),)},
    "nothing cached": {"cache": "none"},
}


@pytest.mark.parametrize("family", list(MODELS))
@pytest.mark.parametrize("fields", GROUPS.values(), ids=GROUPS)
def test_scales_that_share_a_pass_cost_what_torch_counts(family, fields):
    model = MODELS[family]
    late = range(len(model.schedule()) - 3, len(model.schedule()))
    plan = Plan.uniform(len(model.schedule()), branch="cond").replace(late, **fields).replace(late[1:], group=True)
    close_to_torch(model, plan)
    apart = plan.replace(late, group=False)
    both = (plan_flops(model, model.schedule(), each, 7) for each in (plan, apart))
    assert next(both) == next(both)


@pytest.mark.parametrize("family", [family for family in MODELS if MODELS[family].causal])
@pytest.mark.parametrize("rows", [{}, {"tokens": Select(0.5, restore_by="nearest")}, {"parts": (PartRows(0.4),)}])
def test_keys_that_a_scale_chose_cost_what_torch_counts(family, rows):
    model = MODELS[family]
    count, decides = len(model.schedule()), SelfSimilar(0.4, 9, 2, (3,), layers=(0.0, 0.7))
    plan = Plan.uniform(count).replace([count - 3], attend=(decides,), **rows)
    for k, through in ((count - 2, ()), (count - 1, (count - 2,))):
        plan = plan.replace([k], attend=(replace(decides, source=count - 3, through=through),))
    close_to_torch(model, plan)


def test_a_pattern_spares_what_it_does_not_show():
    model, plain = MODELS["infinity"], Plan.uniform(len(MODELS["infinity"].schedule()))
    schedule, last = model.schedule(), len(plain) - 1
    whole, local = (
        plan_flops(model, schedule, plain.replace([last], attend=attend), 7)[last].attention
        for attend in ((), (Local((1,), 0, 16),))
    )
    assert local < 0.4 * whole


def test_parts_follow_their_formulas():
    model = MODELS["infinity"]
    schedule, depth, width = model.schedule(), model.depth, model.config.width
    rows = plan_flops(model, schedule, Plan.uniform(len(schedule)), 7)
    before = 0
    for row, (h, w) in zip(rows, schedule, strict=True):
        M = h * w
        assert row.rows == 2 * M and row.share == 1
        assert row.attention == 2 * 4 * M * (before + M) * width * depth
        assert row.cross == 2 * 4 * M * 7 * width * depth
        assert row.linear == 2 * 2 * M * depth * (6 * width**2 + 2 * width * 256)
        before += M
    assert condition_flops(model, 7) == 2 * 2 * (7 * depth * 2 * width**2 + 6 * width**2)


def test_vectors_that_a_block_makes_once_are_no_work_of_its_rows():
    model = MODELS["var"]
    width = model.config.width
    rows = plan_flops(model, model.schedule(), Plan.uniform(6), 0)
    assert [row.linear for row in rows] == [2 * 2 * h * w * 3 * 12 * width**2 for h, w in model.schedule()]
    assert condition_flops(model, 0) == 2 * 2 * 3 * 6 * width**2
    assert condition_flops(tiny("var", shared=True), 0) == 2 * 2 * 6 * width**2


def test_a_scale_that_is_not_run_costs_nothing_and_one_branch_half():
    model = MODELS["scenes"]
    plan = Plan.uniform(5).replace([3, 4], branch="cond").replace([4], run="skip")
    plain, rows = (plan_flops(model, model.schedule(), p, 4) for p in (Plan.uniform(5), plan))
    assert rows[4].total == rows[4].rows == 0
    assert (rows[3].linear, rows[3].head) == (plain[3].linear // 2, plain[3].head // 2)
    assert rows[3].embed == plain[3].embed


def test_cross_attention_that_the_branches_share_is_work_of_one():
    """Where the branches process other positions, each attends to the text itself."""
    model = MODELS["star"]
    both, single = Plan.uniform(6), Plan.uniform(6, branch="cond")
    shared, one = ([row.cross for row in plan_flops(model, model.schedule(), plan, 7)] for plan in (both, single))
    assert shared == one
    apart, alone = (
        plan_flops(model, model.schedule(), plan.replace([5], tokens=Select(0.5, "norm", "nearest")), 7)[5].cross
        for plan in (both, single)
    )
    assert apart == 2 * alone


def test_the_meta_device_suffices():
    full, bare = MODELS["scenes"], tiny("scenes").to("meta")
    plan = Plan.uniform(5).replace([4], tokens=Select(0.5))
    assert plan_flops(full, full.schedule(), plan, 9) == plan_flops(bare, bare.schedule(), plan, 9)


@pytest.mark.parametrize("size", [(1024, 1024), (1248, 832)])
def test_a_published_model_is_explained_without_weights(size):
    model = skeleton("infinity-2b")
    assert model.device.type == "meta"
    answer = explain(model, "drop_last(1)+guidance_off(2)", height=size[0], width=size[1])
    assert answer["size"] == list(size)
    assert len(answer["rows"]) == 13
    assert [row["branch"] for row in answer["rows"]] == ["both"] * 10 + ["cond"] * 3
    assert answer["rows"][-1]["run"] == "skip" and answer["rows"][-1]["gflop"] == 0
    assert sum(row["share"] for row in answer["rows"]) == pytest.approx(1)
    assert answer["flop_ratio"] == pytest.approx(answer["plain_gflop"] / answer["gflop"]) and answer["flop_ratio"] > 2


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_is_explained_without_weights(family):
    answer = explain(skeleton(next(iter(FAMILIES[family].sizes))), "drop_last(1)")
    assert answer["rows"][-1]["gflop"] == 0 < answer["gflop"] < answer["plain_gflop"]


def test_an_online_accelerator_is_rehearsed():
    answer = explain(skeleton("infinity-2b"), "stagevar")
    assert "per picture" in answer["note"] and answer["flop_ratio"] > 1.2
    assert answer["rows"][-1]["branch"] == "cond"
    assert "per picture" not in explain(skeleton("scenes"), "drop_last(1)")["note"]


def test_the_mean_picture_is_linear_between_what_was_measured():
    low = {row[0]: row[3] for row in MEAN_PICTURE}
    assert signals_at(0.5).low == low[0.5] and signals_at(0.5, both=False).flips is None
    assert signals_at(0.625).low == pytest.approx((low[0.5] + low[0.75]) / 2)
    assert signals_at(0.01) == signals_at(0.03125) and signals_at(1.0).support == MEAN_PICTURE[-1][6:]


def test_the_plain_run_gains_nothing():
    answer = explain(skeleton("scenes"), "none")
    assert answer["flop_ratio"] == 1
    assert {row["tokens"] for row in answer["rows"]} == {"all"}


def test_what_cannot_be_explained_is_named():
    with pytest.raises(OptionError, match="height"):
        explain(skeleton("infinity-2b"), "none", height=0, width=100)
    with pytest.raises(OptionError):
        explain(skeleton("scenes"), "warp")
    with pytest.raises(UnknownModelError):
        skeleton("dall-e")


def test_counting_leaves_no_trace_in_the_random_state():
    before = torch.get_rng_state()
    explain(skeleton("scenes"), "stagevar_paper")
    assert torch.equal(before, torch.get_rng_state())
