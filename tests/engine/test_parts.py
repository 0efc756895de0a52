"""Single parts of blocks on fewer rows: against a twin that runs all rows, and as an axis of random plans."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stagevar.engine.contract.block import BlockContext
from stagevar.engine.grids.grid import scales
from stagevar.engine.grids.rows import resize_rows
from stagevar.engine.loop.run import run
from stagevar.engine.plan.channels import Channels
from stagevar.engine.plan.parts import PartRows, blocks
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny

MODELS = {family: tiny(family) for family in ("infinity", "scenes", "star", "hart", "switti", "var")}
MODELS["switti-ar"] = tiny("switti", causal=True)
EXACT = {"hart": 1e-2}
"""How near a picture drawn alone comes to one of a batch, where that is not 1e-4."""

SCALES = 5
PROMPTS = ["a red circle", "two yellow rings", "a star above a cross"]

families = pytest.mark.parametrize("family", list(MODELS))


def condition_of(model, images):
    return model.condition(model.encode_text([*"378"][:images] if model.family == "var" else PROMPTS[:images]))


def generate(family, plans, seeds=(1, 2, 3), first=0, tap=None):
    model = MODELS[family]
    condition = condition_of(model, 3)
    rows = range(first, first + len(plans))
    condition = condition.take([*rows, *(row + 3 for row in rows)])
    return list(run(model, condition, model.schedule()[:SCALES], plans, seeds[: len(plans)], tap=tap))


def plan_with(*rules, at=(3, 4), **fields):
    return Plan.uniform(SCALES, guidance=2.0, temperature=0.8).replace(at, parts=rules, **fields)


def with_channels(family, rule):
    """The rule with other numbers for every block and channel of the model."""
    model, draw = MODELS[family], torch.Generator().manual_seed(5)
    numbers = torch.randn(2, model.depth, model.config.width, generator=draw).mul(0.2)
    return replace(rule, channels=Channels.of((1 + numbers[0]).tolist(), numbers[1].tolist()))


def chosen_ref(x, prune):
    """Positions of the rows farthest from the mean row."""
    distance = (x - x.mean(1, keepdim=True)).double().square().sum(-1)
    count = x.shape[1] - int(x.shape[1] * prune)
    return torch.stack([torch.tensor(sorted(each.argsort(descending=True, stable=True)[:count])) for each in distance])


class MaskedAttention:
    """Attention of all rows, in which the keys of rows that are left out are hidden."""

    def __init__(self, history, index, count, ahead):
        self.history, self.ahead = history, ahead
        self.seen = torch.zeros(len(index), count, dtype=torch.bool).scatter(1, index, True)
        self.seen[:, :ahead] = True

    def __call__(self, q, k, v, /, *, scale):
        own = self.seen[:, None, None].expand(-1, k.shape[1], q.shape[2], -1)
        keys, values, seen = [k], [v], [own]
        for before in self.history:
            keys.insert(0, before[0]), values.insert(0, before[1])
            seen.insert(0, before[2][:, None, None].expand(-1, k.shape[1], q.shape[2], -1))
        out = F.scaled_dot_product_attention(
            q, torch.cat(keys, 2), torch.cat(values, 2), torch.cat(seen, 3), scale=scale
        )
        self.history.insert(0, (k, v, self.seen))
        return out


def twin(model, condition, plan, latents):
    """The stream behind every block of every scale: parts run on all rows, then rows that are left out are replaced."""
    history = [[] for _ in range(model.depth)]
    maps, streams = {}, {}
    for at in scales(model.schedule()[:SCALES]):
        x, rope = model.embed(latents[at.k], condition, at), model.rope(at, condition)
        ahead, rules = model.rows(at) - at.tokens, plan[at.k].parts
        for layer, block in enumerate(model.layers):
            for role, part in zip(block.roles, block.parts, strict=True):
                fitting = [r for r in rules if role in r.roles and layer in blocks(r.layers, model.depth)]
                rule = fitting[0] if fitting else PartRows(0.0)
                index = chosen_ref(x[:, ahead:], rule.prune) + ahead
                whole = index.shape[1] == at.tokens
                attend = MaskedAttention(history[layer] if model.causal else [], index, x.shape[1], ahead)
                y = part(x, BlockContext(layer, condition, rope, attend, aligned=whole))
                if not whole:
                    source = at.k - 1 if rule.source is None else rule.source
                    grid = model.schedule()[source]
                    map_ = resize_rows(maps[source, layer, role], grid, at.grid, rule.mode)
                    if rule.channels is not None:
                        map_ = map_ * rule.channels.gains[layer] + rule.channels.biases[layer]
                    filled = torch.cat([torch.zeros_like(y[:, :ahead]), map_ * (rule.fill == "part")], 1)
                    keep = torch.zeros(y.shape[:2], dtype=torch.bool).scatter(1, index, True)
                    keep[:, :ahead] = True
                    y = torch.where(keep[..., None], y, filled)
                maps[at.k, layer, role] = y[:, ahead:]
                x = x + y
            streams[at.k, layer] = x
    return streams


RULES = {
    "all parts": (PartRows(0.4, source=2),),
    "attention": (PartRows(0.5, ("attention",), (0.3, 1.0)),),
    "feed-forward of an older scale": (PartRows(0.7, ("feed_forward",), source=1, mode="area"),),
    "others get nothing": (PartRows(0.6, ("attention", "cross"), fill="zero"), PartRows(0.3)),
}


@families
@pytest.mark.parametrize("fitted", [False, True], ids=["as they were", "by channel"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_parts_on_fewer_rows_equal_their_twin(family, rules, fitted):
    model, seen = MODELS[family], {}
    plan = plan_with(*(with_channels(family, rule) if fitted else rule for rule in rules))
    generate(family, [plan], tap=lambda name, k, x: seen.__setitem__((name, k), x))
    latents = [seen["begin", k] for k in range(SCALES)]
    condition = condition_of(model, 3).take([0, 3])
    with torch.inference_mode():
        streams = twin(model, condition, plan, latents)
    for (k, layer), stream in streams.items():
        torch.testing.assert_close(seen[f"block.{layer}", k], stream, atol=2e-4, rtol=1e-3)


@families
def test_a_rule_that_prunes_nothing_is_the_plain_run(family):
    plain = generate(family, [plan_with()] * 2)[-1].latent
    for rule in (PartRows(0.0), PartRows(0.0, fill="zero"), PartRows(0.9, layers=(0.0, 0.01))):
        assert torch.equal(plain, generate(family, [plan_with(rule)] * 2)[-1].latent)


@families
def test_a_part_that_is_not_run_leaves_no_keys_and_no_rows(family):
    model, lengths = MODELS[family], {}

    def tap(name, k, x):
        if name.startswith("attended."):
            lengths[k, int(name.partition(".")[2])] = x.shape[2]

    rule = PartRows(1.0, ("attention",), (0.0, 0.5), source=1)
    steps = generate(family, [plan_with(rule, at=(3,))], tap=tap)
    tokens = [model.rows(at) for at in scales(model.schedule())][:SCALES]
    cut = blocks((0.0, 0.5), model.depth)
    assert not {(3, layer) for layer in cut} & set(lengths)
    if model.causal:
        assert [lengths[4, layer] for layer in range(model.depth)] == [
            sum(tokens) - tokens[3] * (layer in cut) for layer in range(model.depth)
        ]
    parts = len(model.layers[0].parts)
    assert steps[3].records[0].rows == round(2 * tokens[3] * (1 - len(cut) / (parts * model.depth)))


def test_kept_rows_of_published_settings():
    assert [PartRows(p).count(n) for p, n in ((0.4, 1024), (0.5, 1600), (0.5, 2304), (0.75, 4096))] == [
        615,
        800,
        1152,
        1024,
    ]
    assert (blocks((3 / 32, 28 / 32), 32), blocks((3 / 32, 28 / 32), 40)) == (range(3, 28), range(4, 35))


@pytest.mark.parametrize(
    "fields",
    [{"prune": 1.1}, {"roles": ()}, {"roles": ("head",)}, {"layers": (0.5, 0.5)}, {"score": "luck"}, {"fill": "mean"}],
)
def test_settings_out_of_range_are_refused(fields):
    with pytest.raises(OptionError, match=next(iter(fields))):
        PartRows(**fields)


def test_parts_need_a_scale_that_ran_them_at_all_positions():
    with pytest.raises(OptionError, match="scale 0 cannot fill parts"):
        plan_with(PartRows(0.5), at=(0,))
    with pytest.raises(OptionError, match="scale 3 reads parts of scale 2, whose rows are reduced"):
        plan_with().replace([2], tokens=Select(0.5)).replace([3], parts=(PartRows(0.5),))
    with pytest.raises(OptionError, match="did not pass through the network"):
        plan_with().replace([2], run="reuse").replace([3], parts=(PartRows(0.5),))
    with pytest.raises(OptionError, match="parts must be a tuple"):
        plan_with().replace([2], parts=PartRows(0.5))


def test_plans_of_other_parts_run_apart():
    assert plan_with(PartRows(0.5))[3].shape != plan_with(PartRows(0.6))[3].shape


rules = st.builds(
    PartRows,
    prune=st.sampled_from((0.0, 0.3, 0.55, 0.9, 1.0)),
    roles=st.sampled_from((("attention",), ("cross", "feed_forward"), ("attention", "cross", "feed_forward"))),
    layers=st.sampled_from(((0.0, 1.0), (0.0, 0.4), (0.3, 1.0))),
    score=st.sampled_from(("distance", "contrast", "change", "norm")),
    fill=st.sampled_from(("part", "part", "zero")),
    source=st.sampled_from((None, 1, 2)),
    mode=st.sampled_from(("area", "bilinear")),
)
tokens = st.sampled_from((None, None, Select(0.4, restore_by="zero_code"), Select(0.5, restore_by="nearest")))


@families
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    first=st.lists(rules, max_size=2),
    second=st.lists(rules, max_size=2),
    fitted=st.booleans(),
    kept=tokens,
    single=st.booleans(),
)
def test_pictures_do_not_depend_on_their_batch(family, first, second, fitted, kept, single):
    branch = {"branch": "cond"} if single else {}
    if fitted:
        first, second = ([with_channels(family, rule) for rule in each] for each in (first, second))
    plans = [plan_with(*first, at=(3,)).replace([4], parts=tuple(second), tokens=kept, **branch), plan_with()]
    together = generate(family, [*plans, plans[0]])[-1].latent
    for i in (0, 2):
        alone = generate(family, plans[:1], seeds=(i + 1,), first=i)[-1].latent
        assert torch.allclose(together[i], alone[0], atol=EXACT.get(family, 1e-4))
