"""Scales that share a pass: against twins that run them one after another or with dense masks, and as an axis of random
plans."""

import gc
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stagevar.engine.contract.block import BlockContext
from stagevar.engine.grids.grid import Scale
from stagevar.engine.loop.cache import KVCache
from stagevar.engine.loop.run import run
from stagevar.engine.plan.evict import Recent, WindowVotes
from stagevar.engine.plan.local import Local
from stagevar.engine.plan.merge import Merge
from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.errors import OptionError
from stagevar.families.star.second_stage import SamplerConfig
from stagevar.families.tiny import tiny
from stagevar.memory.predict import run_bytes

MODELS = {family: tiny(family) for family in ("infinity", "scenes", "star", "hart", "switti", "var")}
MODELS["switti-ar"] = tiny("switti", causal=True)
MODELS["star-sampler"] = tiny("star", sampler=SamplerConfig(first=3, rounds=3, last_rounds=4, early=2, depth=1))
EXACT = {"hart": 1e-2}
"""How near two ways of drawing a picture come to one another, where that is not 1e-4."""

SCALES, MEMBERS = 5, (2, 3, 4)
PROMPTS = ["a red circle", "two yellow rings", "a star above a cross"]

families = pytest.mark.parametrize("family", list(MODELS))


def condition_of(model, images=3):
    return model.condition(model.encode_text([*"378"][:images] if model.family == "var" else PROMPTS[:images]))


def generate(family, plans, seeds=(1, 2, 3), first=0, **options):
    model = MODELS[family]
    rows = range(first, first + len(plans))
    condition = condition_of(model).take([*rows, *(row + 3 for row in rows)])
    return list(run(model, condition, model.schedule()[:SCALES], plans, seeds[: len(plans)], **options))


def plan_of(members=MEMBERS, **fields):
    plain = Plan.uniform(SCALES, guidance=2.0, temperature=0.8, **fields)
    return plain.replace(members[1:], group=True) if members else plain


def apart(plan):
    """The same plan with a pass for every scale."""
    return plan.replace(range(len(plan)), group=False)


@contextmanager
def held(model, members):
    """The codes of some scales reach the latent together, behind the last of them."""
    kept = []

    def add_codes(latent, codes, schedule, k, *rows):
        kept.append((codes, schedule, k, *rows))
        if k in members[:-1]:
            return latent
        while kept:
            latent = type(model).add_codes(model, latent, *kept.pop(0))
        return latent

    model.add_codes = add_codes
    try:
        yield
    finally:
        del model.add_codes


ROWS = {
    "all rows": {},
    "one branch": {"branch": ["both", "both", "cond", "cond", "cond"], "carry": [0, 0, 0, 0.7, 0.7]},
    "guided states": {"guidance_layer": [None, None, 0, None, -1]},
    "no keys for later scales": {"cache": ["all", "all", "none", "all", "all"]},
    "evicted keys": {"cache": ["all", "all", Recent(1, 1), Recent(2, 1), "all"]},
    "local attention": {"attend": [(), (), (), (Local((1, 3, 3), 1, 8),), (Local((1, 3), 1, 8, (0.3, 1.0)),)]},
    "few rows": {"tokens": [None, None, Select(0.5, restore_by="nearest"), None, Select(0.4, restore_by="zero_code")]},
    "groups of blocks": {
        "tokens": [
            None,
            None,
            None,
            Select(0.6, "norm", scope="group", source=1),
            Merge(0.3, dense=(0.3, 0.3)),
        ]
    },
    "few rows of parts": {
        "parts": [
            (),
            (),
            (PartRows(0.5, ("attention",), source=0),),
            (PartRows(1.0, ("attention", "cross"), (0.0, 0.5), fill="zero"),),
            (PartRows(0.4, source=1),),
        ]
    },
}


@families
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_a_pass_is_its_scales_one_after_another_over_one_latent(family, rows):
    model, found, wanted = MODELS[family], {}, {}
    plan = plan_of(**rows)
    steps = generate(family, [plan] * 2, tap=lambda name, k, x: found.__setitem__((name, k), x))
    with held(model, MEMBERS):
        twin = generate(family, [apart(plan)] * 2, tap=lambda name, k, x: wanted.__setitem__((name, k), x))
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        if key[0].startswith(("block.", "attended.", "kept.", "reduced.")):
            torch.testing.assert_close(found[key], tensor, atol=2e-4, rtol=1e-3, msg=str(key))
    assert torch.allclose(steps[-1].latent, twin[-1].latent, atol=EXACT.get(family, 1e-4))
    for step, other in zip(steps, twin, strict=True):
        assert step.records[0].rows == other.records[0].rows


class DenseMask:
    """Attention of the rows of several scales in one call, in which the keys of later scales are hidden."""

    def __init__(self, history, counts):
        self.history = history
        own = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self.seen = own[:, None] >= own if history is not None else own[:, None] == own

    def __call__(self, q, k, v, /, *, scale):
        seen = self.seen
        if self.history is not None:
            keys, values = self.history[-1] if self.history else (k[:, :, :0], v[:, :, :0])
            seen = torch.cat([torch.ones(len(seen), keys.shape[2], dtype=torch.bool), seen], 1)
            k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
            self.history.append((k, v))
        return F.scaled_dot_product_attention(q, k, v, seen, scale=scale)


@families
def test_each_row_has_its_own_level_position_and_mask(family):
    """All scales of the pass in one call of every block, with one dense mask."""
    model, seen, schedule = MODELS[family], {}, MODELS[family].schedule()[:SCALES]
    generate(family, [plan_of()], tap=lambda name, k, x: seen.__setitem__((name, k), x))
    condition = condition_of(model).take([0, 3])
    history = [[] if model.causal else None for _ in range(model.depth)]
    with torch.inference_mode():
        for members in ((0,), (1,), MEMBERS):
            ats = [Scale(schedule, k) for k in members]
            counts = [model.rows(at) for at in ats]
            x = torch.cat([model.embed(seen["begin", members[0]], condition, at) for at in ats], 1)
            ropes = [model.rope(at, condition) for at in ats]
            rope = None if ropes[0] is None else torch.cat(ropes, -3)
            for layer, block in enumerate(model.layers):
                x = block(x, BlockContext(layer, condition, rope, DenseMask(history[layer], counts)))
            for k, rows in zip(members, x.split(counts, 1), strict=True):
                found = seen[f"block.{model.depth - 1}", k]
                torch.testing.assert_close(found, rows, atol=2e-4, rtol=1e-3)


@families
def test_a_group_of_one_is_the_plain_run(family):
    plain = apart(plan_of())
    wanted = generate(family, [plain] * 2)[-1].latent
    asked = []

    def revise(image, plan, at, signals):
        asked.append(at.k)
        return plan

    assert torch.equal(wanted, generate(family, [plain] * 2, revise=revise)[-1].latent)
    assert asked == [k for k in range(SCALES) for _ in range(2)]
    skipped = plain.replace([4], run="skip")
    alone = skipped.replace([4], group=True)
    assert alone.passes == skipped.passes == ((0,), (1,), (2,), (3,))
    assert torch.equal(generate(family, [skipped] * 2)[-1].latent, generate(family, [alone] * 2)[-1].latent)


@families
def test_codes_are_added_in_order_and_every_scale_has_its_record(family):
    model, seen = MODELS[family], {}
    steps = generate(family, [plan_of()] * 2, tap=lambda name, k, x: seen.__setitem__((name, k), x))
    for k in range(1, SCALES):
        latent = model.add_codes(steps[k - 1].latent, seen["codes", k], model.schedule()[:SCALES], k)
        residual = seen.get(("residual", k), torch.zeros(()))
        assert torch.equal(steps[k].latent, latent + residual)
        assert torch.equal(seen["begin", k], steps[min(k - 1, 1)].latent)
    records = [record for step in steps for record in step.records]
    assert [record.group for record in records] == [(), (), MEMBERS, MEMBERS, MEMBERS]
    assert [record.scale for record in records] == list(range(SCALES))
    before = sum(model.rows(Scale(model.schedule(), k)) for k in (0, 1)) if model.causal else 0
    assert [record.cached for record in records[2:]] == [before] * 3


def test_pictures_of_other_groups_run_apart():
    plans = [plan_of(), plan_of((3, 4)), plan_of(())]
    steps = generate("scenes", plans)
    assert [sorted(record.images for record in step.records) for step in steps] == [[(0, 1, 2)]] * 2 + [
        [(0,), (1, 2)],
        [(0,), (1,), (2,)],
        [(0,), (1,), (2,)],
    ]


def test_a_scale_that_is_left_out_within_a_pass_parts_no_pictures():
    plan = plan_of((2, 4)).replace([3], run="skip")
    steps = generate("scenes", [plan, plan.replace([3], tokens=Select(0.5, restore_by="nearest"))])
    assert [step.records[0].images for step in steps] == [(0, 1)] * 5
    assert [step.records[0].group for step in steps] == [(), (), (2, 4), (), (2, 4)]


def test_plans_are_revised_between_passes_only():
    asked = []

    def revise(image, plan, at, signals):
        asked.append((at.k, signals.flips is not None))
        return plan.replace([4], temperature=0.5) if at.k == 3 else plan

    steps = generate("scenes", [plan_of((1, 2, 3))], revise=revise)
    assert asked == [(0, True), (3, True), (4, True)]
    assert steps[3].plans[0][4].temperature == 0.5
    with pytest.raises(OptionError, match="scale 2 or before, which has run"):
        generate("scenes", [plan_of(())], revise=lambda i, plan, at, s: plan.replace([3], group=at.k >= 2))


def test_the_cache_holds_what_was_predicted():
    model, plan = MODELS["infinity"], Plan.uniform(len(MODELS["infinity"].schedule()))
    plan = (
        plan.replace([3, 4, 6], group=True)
        .replace([3], cache="none")
        .replace([4], cache=WindowVotes((30,) * model.depth))
    )
    predicted = run_bytes(model, model.schedule(), plan, 2, text_length=4)
    gc.collect()
    for step in run(model, condition_of(model, 2), model.schedule(), [plan] * 2, [0, 1]):
        caches = [each for each in gc.get_objects() if type(each) is KVCache]
        held = sum(2 * each.keys(layer).nbytes for each in caches for layer in range(model.depth) if each.rows)
        if plan.ends_pass(step.scale) and step.scale != plan.executed[-1]:
            assert predicted.scales[step.scale].cache == held


tokens = st.sampled_from(
    (
        None,
        None,
        Select(0.4, restore_by="zero_code"),
        Select(0.5, "change"),
        Select(0.5, "distance", restore_by="nearest", scope="group"),
        Merge(0.3, dense=(0.3, 0.0)),
    )
)
parts = st.sampled_from(
    (
        (),
        (),
        (PartRows(0.5),),
        (PartRows(1.0, ("attention",), (0.0, 0.5), fill="zero"),),
        (PartRows(0.4, ("cross", "feed_forward"), score="contrast"),),
    )
)
scale = st.fixed_dictionaries(
    {
        "group": st.booleans(),
        "tokens": tokens,
        "parts": parts,
        "cache": st.sampled_from(("all", "all", "none", Recent(1, 1))),
        "attend": st.sampled_from(((), (), (Local((1, 3), 1, 8),))),
    }
)


@families
@settings(max_examples=8, deadline=None, derandomize=True)
@given(late=st.tuples(scale, scale, scale), single=st.sampled_from((2, 3, 4, 5)))
def test_pictures_do_not_depend_on_their_batch(family, late, single):
    try:
        plan = plan_of(())
        for k, fields in enumerate(late, 2):
            plan = plan.replace([k], **fields)
        plan = plan.replace(range(single, SCALES), branch="cond")
    except OptionError:
        assume(False)
    together = generate(family, [plan, plan_of((3, 4)), plan])[-1].latent
    for i in (0, 2):
        alone = generate(family, [plan], (i + 1,), i)[-1].latent
        assert torch.allclose(together[i], alone[0], atol=EXACT.get(family, 1e-4))
