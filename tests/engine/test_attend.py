"""Patterns of attention and evictions: against twins that mask, and as axes of random plans."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stagevar.engine.grids.grid import Scale, scales
from stagevar.engine.loop.cache import KVCache
from stagevar.engine.loop.places import KeyPlaces, row_places
from stagevar.engine.loop.run import run
from stagevar.engine.plan.evict import Recent, WindowVotes, window
from stagevar.engine.plan.local import Local
from stagevar.engine.plan.look import Look, as_tensor, count, joined
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.merge import Merge
from stagevar.engine.plan.parts import PartRows, Rows
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.engine.plan.select import Select
from stagevar.errors import OptionError
from stagevar.families.infinity.grids import SCHEDULES
from stagevar.families.tiny import tiny

MODELS = {family: tiny(family) for family in ("infinity", "scenes", "star", "hart", "switti", "var")}
MODELS["switti-ar"] = tiny("switti", causal=True)
EXACT = {"hart": 2e-2}
SCALES = 5
PROMPTS = ["a red circle", "two yellow rings", "a star above a cross"]
MEGAPIXEL = SCHEDULES[64, 64]
TOKENS = tuple(at.tokens for at in scales(MEGAPIXEL))

families = pytest.mark.parametrize("family", list(MODELS))


def generate(family, plans, seeds=(1, 2, 3), first=0, tap=None):
    model = MODELS[family]
    condition = model.condition(model.encode_text([*"378"] if model.family == "var" else PROMPTS))
    rows = range(first, first + len(plans))
    condition = condition.take([*rows, *(row + 3 for row in rows)])
    return list(run(model, condition, model.schedule()[:SCALES], plans, seeds[: len(plans)], tap=tap))


def plan_with(at=(3, 4), **fields):
    return Plan.uniform(SCALES, guidance=2.0, temperature=0.8).replace(at, **fields)


def look_at(k, schedule=MEGAPIXEL, rows=TOKENS):
    start = sum(rows[:k])
    own = ((start, start + rows[k]),)
    return Look(Scale(schedule, k), 0, 1, rows, own, joined(((0, start),) if k else (), own), Memory())


def test_densities_and_blocks_of_the_published_pattern():
    found = [Local().table(look_at(k)) for k in (10, 11, 12)]
    assert [table.shape for table in found] == [(13, 33), (18, 51), (32, 83)]
    assert [round(float(table.mean()), 4) for table in found] == [0.2098, 0.183, 0.1638]


def seen_ref(schedule, rows, k, windows, sinks):
    """Pairs of (query, key) by the definition, one by one."""
    pairs, offset = [], 0
    for j in range(k + 1):
        (H, W), (h, w) = schedule[k], schedule[j]
        place = j - len(schedule) + len(windows)
        reach = (windows[place] if place >= 0 else -1) // 2
        for q in range(H * W):
            for key in range(h * w):
                near = abs(round(q // W / H * h) - key // w) <= reach and abs(round(q % W / W * w) - key % w) <= reach
                if j < sinks or near or (j == k and q == key):
                    pairs.append((q, offset + key))
        offset += rows[j]
    return pairs


@pytest.mark.parametrize("schedule", [((1, 1), (2, 3), (4, 6), (6, 9)), ((1, 1), (3, 2), (5, 4), (7, 5))])
def test_a_pattern_shows_what_its_definition_says_in_whole_blocks(schedule):
    rows, pattern, k = tuple(h * w for h, w in schedule), Local((1, 3, 3), 1, 4), 3
    look = look_at(k, schedule, rows)
    q, keys, values = (torch.randn(2, 3, n, 4) for n in (rows[k], sum(rows), sum(rows)))
    mask = torch.zeros(math.ceil(rows[k] / 4), math.ceil(sum(rows) / 4), dtype=torch.bool)
    for query, key in seen_ref(schedule, rows, k, pattern.windows, pattern.sinks):
        mask[query // 4, key // 4] = True
    assert torch.equal(torch.from_numpy(pattern.table(look)), mask)
    mask = mask.repeat_interleave(4, 0)[: rows[k]].repeat_interleave(4, 1)[:, : sum(rows)]
    want = F.scaled_dot_product_attention(q, keys, values, mask, scale=0.3)
    torch.testing.assert_close(pattern(q, keys, values, scale=0.3, look=look), want)
    assert pattern.products(look) == 2 * int(mask.sum())
    chosen = torch.tensor([0, 5, 6, rows[k] - 1])
    few = Look(look.at, 0, 1, rows, look.start + chosen[None, None], as_tensor(look.keys, q.device), Memory())
    found = pattern(q[:, :, chosen], keys, values, scale=0.3, look=few)
    torch.testing.assert_close(found, want[:, :, chosen])


@families
def test_a_pattern_that_shows_everything_is_the_plain_run(family):
    plain = generate(family, [plan_with()] * 2)[-1].latent
    for pattern in (Local(sinks=99), Local(block=10**6), Local((1,), 0, 8, (0.0, 0.01))):
        assert torch.equal(plain, generate(family, [plan_with(attend=(pattern,))] * 2)[-1].latent)


@families
def test_a_cache_that_is_large_enough_is_the_plain_run(family):
    plain = generate(family, [plan_with()] * 2)[-1].latent
    depth = MODELS[family].depth
    for rule in (WindowVotes((10**6,) * depth), Recent(99, 1), Recent(0, 99)):
        assert torch.equal(plain, generate(family, [plan_with(at=range(5), cache=rule)] * 2)[-1].latent)


def test_a_window_lies_in_the_middle_of_each_cell():
    assert window((20, 20), 4)[:5] == (2 * 20 + 2, 2 * 20 + 7, 2 * 20 + 12, 2 * 20 + 17, 7 * 20 + 2)
    assert window((2, 8), 4) == (0, 2, 4, 6, 8, 10, 12, 14)


def votes_ref(rule, keys, queries, own):
    """Slots that stay of one head, by sorting."""
    votes = [float(sum(q @ key for q in queries)) for key in keys]
    pooled = []
    for i in range(len(keys)):
        near = [j for j in range(i - rule.pool // 2, i + rule.pool // 2 + 1) if 0 <= j < len(keys) and j not in own]
        pooled.append(max((votes[j] for j in near), default=-math.inf))
    others = sorted((i for i in range(len(keys)) if i not in own), key=lambda i: (-pooled[i], i))
    return sorted([*own, *others[: rule.capacities[0] - len(own)]])


def test_the_window_and_what_it_votes_for_stay_and_the_older_of_equals():
    rule, look = WindowVotes((20,), 2, 3), look_at(3)
    length = count(look.keys)
    keys, queries = torch.randint(-2, 3, (2, 2, length, 4)).float(), torch.randint(-2, 3, (2, 2, 4, 4)).float()
    own = [length - TOKENS[3] + i for i in window((6, 6), 2)]
    slots = rule.keep(keys, lambda: queries, look)
    want = [[votes_ref(rule, keys[r, h], queries[r, h], own) for h in range(2)] for r in range(2)]
    assert slots.tolist() == want


@families
def test_what_is_dropped_is_not_seen_later(family):
    """The next scale attends to the entries that stayed, at their places, and no layer grows beyond its budget."""
    model, seen, kept = MODELS[family], {}, {}

    def tap(name, k, x):
        if name.startswith(("attended.", "kept.")):
            (seen if name[0] == "a" else kept)[k, int(name.partition(".")[2])] = x

    capacities = tuple(20 + layer for layer in range(model.depth))
    generate(family, [plan_with(at=(3,), cache=WindowVotes(capacities))], tap=tap)
    if not model.causal:
        assert not kept
        return
    rows = [model.rows(at) for at in scales(model.schedule())]
    for layer in range(model.depth):
        places = kept[3, layer]
        assert places.shape[-1] == capacities[layer] and seen[4, layer].shape[2] == capacities[layer] + rows[4]
        assert (places.diff(dim=-1) > 0).all()
        want = seen[3, layer].gather(2, places[..., None].expand(-1, -1, -1, seen[3, layer].shape[3]))
        assert torch.equal(seen[4, layer][:, :, : capacities[layer]], want)


def test_recent_entries_are_those_of_the_first_and_the_latest_scales():
    rule, keys = Recent(2, 1), torch.zeros(2, 3, sum(TOKENS[:5]), 1)
    slots = rule.keep(keys, lambda: keys, look_at(4))
    want = [*range(5), *range(sum(TOKENS[:4]), sum(TOKENS[:5]))]
    assert slots.shape[:2] == (2, 3) and slots[1, 2].tolist() == want
    assert rule.capacity(Scale(MEGAPIXEL, 4), TOKENS, 0) == len(want)
    assert Recent(9, 9).capacity(Scale(MEGAPIXEL, 4), TOKENS, 0) == sum(TOKENS[:5])


def test_places_of_rows_that_run():
    device = torch.device("cpu")
    assert row_places(Rows(3, (2, 2)), (2, 2), 10, None, device) == ((10, 17),)
    index = torch.tensor([[1, 3], [0, 2]])
    assert row_places(Rows(1, (2, 2), index), (2, 2), 10, None, device).tolist() == [[[10, 12, 14]], [[10, 11, 13]]]
    chosen = torch.tensor([[0, 2], [1, 2]])
    assert row_places(Rows(0, (2, 2)), (2, 2), 5, chosen, device).tolist() == [[[5, 7]], [[6, 7]]]
    assert row_places(Rows(0, (1, 1)), (3, 3), 5, None, device).tolist() == [[[9]]]


def test_places_are_kept_taken_and_dropped():
    places = KeyPlaces(2)
    assert places.extend(0, ((0, 2),)) == ((0, 2),)
    assert places.extend(0, ((2, 4),)) == ((0, 4),)
    assert places.extend(0, ((7, 8),)) == ((0, 4), (7, 8))
    kept = places.evict(0, torch.tensor([[[0, 4]], [[1, 2]]]))
    assert kept.tolist() == [[[0, 7]], [[1, 2]]] and places.of(1) == ()
    assert places.take(torch.tensor([1])).of(0).tolist() == [[[1, 2]]]
    assert places.extend(0, ((8, 9),)).tolist() == [[[0, 7, 8]], [[1, 2, 8]]]


def test_a_cache_of_one_layer_has_its_own_room():
    cache, rows = KVCache(2, [4, 6]), torch.randn(2, 3, 4, 5)
    for layer in range(2):
        cache.extend(layer, rows, rows + 1, keep=True)
    cache.evict(1, torch.tensor([0, 3]).expand(2, 3, -1))
    assert (cache.length(0), cache.length(1), cache.mean_length) == (4, 2, 3)
    keys, values = cache.extend(1, rows[:, :, :1], rows[:, :, :1], keep=True)
    assert torch.equal(keys[:, :, :2], rows[:, :, [0, 3]]) and torch.equal(values[:, :, :2], rows[:, :, [0, 3]] + 1)
    assert [store[0].shape[2] for store in cache._stores] == [4, 6]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Local(()), "window"),
        (lambda: Local(layers=(0.5, 0.2)), "layers"),
        (lambda: WindowVotes((16,)), "capacities"),
        (lambda: WindowVotes((40,), pool=4), "odd pool"),
        (lambda: Recent(scales=0), "scales"),
        (lambda: ScalePlan(cache="some"), "cache"),
        (lambda: ScalePlan(attend=Local()), "attend"),
    ],
)
def test_settings_out_of_range_are_refused(make, word):
    with pytest.raises(OptionError, match=word):
        make()


def test_plans_of_other_patterns_and_budgets_run_apart():
    plain = plan_with()[3]
    assert plain.shape != plan_with(attend=(Local(),))[3].shape
    assert plain.shape != plan_with(cache=Recent())[3].shape


patterns = st.builds(
    Local,
    windows=st.sampled_from(((1,), (1, 3), (3, 3, 5))),
    sinks=st.sampled_from((0, 2)),
    block=st.sampled_from((1, 8, 16)),
    layers=st.sampled_from(((0.0, 1.0), (0.3, 1.0))),
)
evictions = st.sampled_from(("all", "none", Recent(2, 1), Recent(1, 2), "votes"))
reductions = st.sampled_from((None, None, Select(0.5, restore_by="nearest"), Merge(0.4), "parts"))


@families
@settings(max_examples=8, deadline=None, derandomize=True)
@given(pattern=patterns, cache=evictions, rows=reductions, late=st.sampled_from((2, 3)), single=st.booleans())
def test_pictures_do_not_depend_on_their_batch(family, pattern, cache, rows, late, single):
    cache = WindowVotes((24,) * MODELS[family].depth) if cache == "votes" else cache
    fields = {"parts": (PartRows(0.5, source=1),)} if rows == "parts" else {"tokens": rows}
    plan = plan_with(at=(late,), cache=cache, **fields).replace([3, 4], attend=(pattern,))
    plan = plan.replace([4], branch="cond") if single else plan
    together = generate(family, [plan, plan_with(), plan])[-1].latent
    for i in (0, 2):
        alone = generate(family, [plan], seeds=(i + 1,), first=i)[-1].latent
        assert torch.allclose(together[i], alone[0], atol=EXACT.get(family, 2e-4))
