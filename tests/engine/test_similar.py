"""Attention to keys that an earlier scale chose: published counts, a twin by explicit softmax, batches."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stagevar.engine.grids.grid import Grid, Scale, Schedule, scales
from stagevar.engine.loop.run import run
from stagevar.engine.plan.evict import Recent, WindowVotes
from stagevar.engine.plan.local import Local
from stagevar.engine.plan.look import Look, as_tensor
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.similar import SelfSimilar, matched, near
from stagevar.errors import OptionError
from stagevar.families.infinity.grids import SCHEDULES
from stagevar.families.tiny import tiny

MEGAPIXEL = SCHEDULES[64, 64]
SMALL: Schedule = ((1, 1), (2, 3), (3, 4), (4, 6), (5, 7))
DECIDES = SelfSimilar(0.4, 5, 2, (3, 3))
MODELS = {family: tiny(family) for family in ("infinity", "scenes", "star", "hart", "var")}
EXACT = {"hart": 2e-2}
PROMPTS = ["a red circle", "two yellow rings", "a star above a cross"]
families = pytest.mark.parametrize("family", list(MODELS))


def look_at(k: int, schedule: Schedule, memory: Memory | None = None) -> Look:
    rows = tuple(at.tokens for at in scales(schedule))
    start, end = sum(rows[:k]), sum(rows[: k + 1])
    return Look(Scale(schedule, k), 0, 1, rows, ((start, end),), ((0, end),), memory or Memory())


@pytest.mark.parametrize(("multiple", "chosen", "lengths"), [(112, 784, (560, 784)), (64, 832, (512, 704))])
def test_counts_of_the_published_settings(multiple: int, chosen: int, lengths: tuple[int, int]) -> None:
    decides = SelfSimilar(multiple=multiple)
    assert decides.chosen(4121) == chosen
    assert [near(grid, 192, window, multiple)[1] for grid, window in (((48, 48), 7), ((64, 64), 9))] == list(lengths)
    eleven, twelve = replace(decides, source=10), replace(decides, source=10, through=(11,))
    listed = eleven.listed(look_at(11, MEGAPIXEL)), twelve.listed(look_at(12, MEGAPIXEL))
    assert listed == (chosen + lengths[0], chosen + sum(lengths))
    if multiple == 112:
        assert listed == (1344, 2128)
    assert eleven.products(look_at(11, MEGAPIXEL)) == 2 * 2304 * listed[0]
    assert decides.products(look_at(10, MEGAPIXEL)) == 2 * 1600 * 4121 + 1600 * 4121 + 2 * 1600 * chosen
    assert [len(near(grid, 192, 7, 112)[0]) for grid in MEGAPIXEL[10:]] == [9, 12, 22]


def test_groups_are_matched_by_their_middles() -> None:
    assert matched(12, 9) == [0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8]
    assert matched(3, 3) == [0, 1, 2] and matched(2, 1) == [0, 0]


@pytest.mark.parametrize("grid", [(5, 7), (48, 48), (52, 78)])
def test_a_run_holds_every_window_of_its_group(grid: Grid) -> None:
    (H, W), group, reach = grid, 6 if grid[0] < 9 else 192, 2
    starts, length = near(grid, group, 2 * reach + 1, 4)
    assert length % 4 == 0 or length == H * W
    for token in range(H * W):
        y, x = divmod(token, W)
        start = starts[token // group]
        for other in ((y - reach, x - reach), (y + reach, x + reach), (y, x)):
            place = min(max(other[0], 0), H - 1) * W + min(max(other[1], 0), W - 1)
            assert start <= place < start + length <= H * W


def tensors(k: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of scale k, and keys and values of all scales so far, the same ones for every k."""
    generator = torch.Generator().manual_seed(seed)
    end, own = sum(h * w for h, w in SMALL[: k + 1]), SMALL[k][0] * SMALL[k][1]
    keys, values = (torch.randn(2, 3, 100, 4, generator=generator) for _ in range(2))
    return torch.randn(2, 3, 50, 4, generator=generator)[:, :, :own], keys[:, :, :end], values[:, :, :end]


def softmax_ref(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention of one head by its definition, to the keys that each query sees."""
    weights = torch.exp(0.3 * q @ k.T) * seen
    return (weights / weights.sum(1, keepdim=True)) @ v


def decided_ref(k: int) -> tuple[Tensor, list[list[list[list[int]]]], Tensor]:
    """Output, chosen keys by row, head and group, and correction of the scale that decides."""
    q, keys, values = tensors(k)
    dense = q.new_empty(q.shape)
    for r, h in product(range(2), range(3)):
        dense[r, h] = softmax_ref(q[r, h], keys[r, h], values[r, h], torch.ones(1))
    count, missed = 2 * round(0.4 * keys.shape[2] / 2), torch.zeros_like(dense)
    lists: list[list[list[list[int]]]] = [[[] for _ in range(3)] for _ in range(2)]
    for r in range(2):
        for h in range(3):
            weights = (0.3 * q[r, h] @ keys[r, h].T).softmax(1)
            for first in range(0, q.shape[2], 5):
                rows = slice(first, first + 5)
                best = sorted(weights[rows].sum(0).topk(count).indices.tolist())
                seen = torch.zeros(keys.shape[2]).index_fill(0, torch.tensor(best), 1)
                missed[r, h, rows] = dense[r, h, rows] - softmax_ref(q[r, h, rows], keys[r, h], values[r, h], seen)
                lists[r][h].append(best)
    return dense, lists, missed


def followed_ref(k: int, lists: list[list[list[list[int]]]], missed: Tensor, grid: Grid) -> Tensor:
    """Output of a later scale; its own keys are added to the lists, group by group."""
    q, keys, values = tensors(k)
    starts, length = near(SMALL[k], 5, 3, 2)
    resized = F.interpolate(missed.permute(0, 1, 3, 2).flatten(0, 1).unflatten(2, grid), SMALL[k], mode="bilinear")
    out = resized.flatten(2).mT.reshape(2, 3, -1, 4).clone()
    begin = keys.shape[2] - q.shape[2]
    for r in range(2):
        for h in range(3):
            earlier = lists[r][h]
            lists[r][h] = []
            for g, start in enumerate(starts):
                near_g = min(max(round((g + 0.5) / len(starts) * len(earlier) - 0.5), 0), len(earlier) - 1)
                lists[r][h].append(earlier[near_g] + list(range(begin + start, begin + start + length)))
                seen = torch.zeros(keys.shape[2]).index_fill(0, torch.tensor(lists[r][h][-1]), 1)
                rows = slice(5 * g, 5 * g + 5)
                out[r, h, rows] += softmax_ref(q[r, h, rows], keys[r, h], values[r, h], seen)
    return out


FOLLOW = (replace(DECIDES, source=2), replace(DECIDES, source=2, through=(3,)))


def test_decision_and_following_scales_are_what_explicit_softmax_gives() -> None:
    memory = Memory()
    dense, lists, missed = decided_ref(2)
    found = DECIDES(*tensors(2), scale=0.3, look=look_at(2, SMALL, memory))
    torch.testing.assert_close(found, dense)
    assert memory.stored("keys", (0, "attention"), 2).tolist() == lists
    for k, pattern in zip((3, 4), FOLLOW, strict=True):
        want = followed_ref(k, lists, missed, SMALL[2])
        look = look_at(k, SMALL, memory)
        torch.testing.assert_close(pattern(*tensors(k), scale=0.3, look=look), want, atol=2e-5, rtol=1e-4)
        assert pattern.listed(look) == len(lists[0][0][0]) < sum(look.rows[: k + 1])


def as_chosen(look: Look) -> Look:
    """The same places, as if they were known at run time only."""
    device = torch.device("cpu")
    return replace(look, queries=as_tensor(look.queries, device), keys=as_tensor(look.keys, device))


def test_over_rows_that_are_known_at_run_time_a_mask_gives_the_same() -> None:
    memories = Memory(), Memory()
    for k, pattern in zip((2, 3, 4), (DECIDES, *FOLLOW), strict=True):
        looks = look_at(k, SMALL, memories[0]), as_chosen(look_at(k, SMALL, memories[1]))
        first, second = (pattern(*tensors(k), scale=0.3, look=look) for look in looks)
        torch.testing.assert_close(first, second, atol=2e-5, rtol=1e-4)
        left = [memory.stored("keys", (0, "attention"), k) for memory in memories]
        assert torch.equal(*left)


def plan_of(*patterns: SelfSimilar | Local, first: int = 2, **fields: object) -> Plan:
    plan = Plan.uniform(5, guidance=2.0, temperature=0.8)
    for k, pattern in enumerate(patterns, first):
        plan = plan.replace([k], attend=(pattern,))
    return plan.replace(range(first, 5), **fields) if fields else plan


def generate(family: str, plans: list[Plan], seeds: tuple[int, ...] = (1, 2, 3), first: int = 0) -> Tensor:
    model = MODELS[family]
    condition = model.condition(model.encode_text([*"378"] if model.family == "var" else PROMPTS))
    rows = range(first, first + len(plans))
    condition = condition.take([*rows, *(row + 3 for row in rows)])
    *_, last = run(model, condition, model.schedule()[:5], plans, seeds[: len(plans)])
    return last.latent


@families
def test_lists_of_all_keys_are_the_plain_run(family: str) -> None:
    wide = SelfSimilar(1.0, 5, 1, (99,))
    everything = plan_of(wide, replace(wide, source=2), replace(wide, source=2, through=(3,)))
    assert torch.equal(generate(family, [plan_of()] * 2), generate(family, [everything] * 2))
    other = plan_of(DECIDES, *FOLLOW)
    assert not torch.equal(generate(family, [plan_of()] * 2), generate(family, [other] * 2))


def test_the_scale_that_decides_draws_what_the_plain_run_draws() -> None:
    alone = plan_of(replace(DECIDES, layers=(0.0, 0.5)), first=4)
    assert torch.equal(generate("infinity", [plan_of()]), generate("infinity", [alone]))


@families
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from((None, None, Select(0.5, restore_by="nearest"), "parts")),
    cache=st.sampled_from(("all", "none", Recent(1, 2), "votes")),
    group=st.sampled_from((4, 9, 192)),
    single=st.booleans(),
    late=st.sampled_from((2, 3, 4)),
)
def test_pictures_do_not_depend_on_their_batch(
    family: str, rows: object, cache: object, group: int, single: bool, late: int
) -> None:
    cache = WindowVotes((24,) * MODELS[family].depth) if cache == "votes" else cache
    fields = {"parts": (PartRows(0.5, source=1),)} if rows == "parts" else {"tokens": rows}
    patterns = [replace(each, group=group) for each in (DECIDES, *FOLLOW)]
    plan = plan_of(*patterns).replace([late], cache=cache, **fields)
    plan = plan.replace([4], branch="cond") if single else plan
    together = generate(family, [plan, plan_of(), plan])
    for i in (0, 2):
        alone = generate(family, [plan], seeds=(i + 1,), first=i)
        assert torch.isfinite(alone).all()
        assert torch.allclose(together[i], alone[0], atol=EXACT.get(family, 2e-4))


def test_what_nobody_left_cannot_be_read() -> None:
    with pytest.raises(OptionError, match="scale 4 reads correction of scale 3, whose attention leaves none"):
        plan_of(replace(DECIDES, source=3), first=4)
    with pytest.raises(OptionError, match="scale 2, which does not run before it"):
        plan_of(DECIDES, *FOLLOW).replace([2], run="skip")
    plan = plan_of(DECIDES, *FOLLOW)
    assert {(read.kind, read.scale) for read in plan.read_later(3)} == {("correction", 2), ("keys", 3)}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"top": 0.0}, "share of keys"),
        ({"group": 0}, "groups"),
        ({"windows": ()}, "windows"),
        ({"windows": (0,)}, "1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, object], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        SelfSimilar(**fields)  # type: ignore[arg-type]
