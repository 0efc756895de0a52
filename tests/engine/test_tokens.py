"""Reducing and restoring rows: the operators against plain twins, and the loop with reduced rows."""

import math
from types import SimpleNamespace

import pytest
import torch

from stagevar.engine.grids.grid import scales
from stagevar.engine.grids.rows import gather, scatter
from stagevar.engine.loop.run import run
from stagevar.engine.loop.segments import Segment, segments
from stagevar.engine.plan.memory import LAST, Memory
from stagevar.engine.plan.merge import Merge, centres
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.engine.plan.select import TIE, Select, highest, kept, least_squares, nearest
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny

MODELS = {family: tiny(family) for family in ("infinity", "scenes", "hart")}
EXACT = {"infinity": 1e-5, "scenes": 1e-5, "hart": 1e-2}
"""How near a picture drawn alone comes to one of a batch; HART's residual enlarges rounding 20000 times."""

PROMPTS = ["a red circle", "two yellow rings", "a star above a cross"]
RESTORES = ("increment", "hidden", "nearest", "lowrank", "zero_code")
SCALES = 5

families = pytest.mark.parametrize("family", list(MODELS))


def generate(family, plans, seeds=(1, 2, 3), prompts=PROMPTS, tap=None):
    model = MODELS[family]
    condition = model.condition(model.encode_text(prompts[: len(plans)]))
    return list(run(model, condition, model.schedule()[:SCALES], plans, seeds[: len(plans)], tap=tap))


def reduced(tokens, scales=(3, 4), **fields):
    return Plan.uniform(SCALES, guidance=2.0, temperature=0.8).replace(scales, tokens=tokens, **fields)


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gather_ref(x, index):
    return torch.stack([torch.stack([x[r, i] for i in index[r]]) for r in range(len(x))])


def scatter_ref(x, index, y):
    out = x.clone()
    for r in range(len(x)):
        for j, i in enumerate(index[r]):
            out[r, i] = y[r, j]
    return out


def nearest_ref(index, grid):
    found = []
    for place in range(grid[0] * grid[1]):
        y, x = divmod(place, grid[1])
        distances = [(y - int(i) // grid[1]) ** 2 + (x - int(i) % grid[1]) ** 2 for i in index]
        found.append(distances.index(min(distances)))
    return found


def test_operators_equal_their_references():
    x, y, index = rows(2, 12, 3), rows(2, 4, 3, seed=1), torch.tensor([[0, 3, 7, 11], [1, 2, 5, 9]])
    before = x.clone()
    assert torch.equal(gather(x, index), gather_ref(x, index))
    assert torch.equal(scatter(x, index, y), scatter_ref(x, index, y))
    assert nearest(index, (3, 4)).tolist() == [nearest_ref(row, (3, 4)) for row in index]
    assert torch.equal(x, before)


def test_a_low_rank_stream_is_mixed_exactly():
    basis = rows(1, 5, 16)
    x = rows(1, 40, 5, seed=1) @ basis
    chosen = x[:, :9]
    assert torch.allclose(least_squares(x, chosen, ridge=1e-7) @ chosen, x, atol=1e-2)


@pytest.mark.parametrize(("scope", "groups"), [("network", [(3, 7)]), ("group", [(3, 4), (4, 7)])])
def test_shares_of_dense_blocks_are_rounded_up(scope, groups):
    model = SimpleNamespace(depth=8, groups=2)
    found = list(segments(model, Select(0.5, scope=scope, dense=(0.3, 0.1))))
    assert found[0] == Segment(LAST, range(3), False) and found[-1] == Segment(LAST, range(7, 8), False)
    assert found[1:-1] == [Segment(group, range(*layers), True) for group, layers in enumerate(groups)]


def test_scores_of_a_region_are_the_mean_of_all_positions_in_it():
    change = torch.zeros(1, 1, 8, 8)
    change[0, 0, 0, 0], change[0, 0, 5, 5] = 4, 2
    context = TokenContext(3, (2, 2), 0, 1, None, [0], change, change, Memory())
    assert Select(0.5, score="change").scores(rows(2, 4, 3), context).tolist() == [[1, 0, 0, 0.25]] * 2


def test_kept_rows_are_a_share_and_never_none():
    assert [kept(share, 10) for share in (0.001, 0.25, 0.5, 1.0)] == [1, 3, 5, 10]


def test_kept_rows_are_sorted_score_highest_and_keep_their_positions():
    x, rope = rows(2, 12, 4), rows(12, 2, 2)
    context = TokenContext(3, (3, 4), 0, 1, rope, [1, 2], rows(1, 5, 6, 8), rows(1, 5, 6, 8, seed=1), Memory())
    for score in ("contrast", "change", "norm", "distance"):
        select = Select(0.5, score=score)
        found = select.reduce(x, context)
        scores = select.scores(x, context)
        assert torch.equal(found.index, found.index.sort(1).values)
        lowest = scores.gather(1, found.index).min(1).values
        assert ((scores >= lowest[:, None]).sum(1) == 6).all()
        assert torch.equal(found.x, gather_ref(x, found.index))
        assert torch.equal(found.rope, rope[found.index])


def test_regions_stand_at_their_centres():
    assert centres((4, 6), (2, 3), torch.device("cpu")).tolist() == [7, 9, 11, 19, 21, 23]
    assert centres((3, 5), (3, 5), torch.device("cpu")).tolist() == list(range(15))


@families
@pytest.mark.parametrize(
    ("scope", "restore"), [*(("network", r) for r in RESTORES), *(("group", r) for r in RESTORES[:-1])]
)
def test_keeping_everything_is_the_plain_run(family, scope, restore):
    plain = generate(family, [Plan.uniform(SCALES, guidance=2.0, temperature=0.8)] * 2)[-1]
    tokens = Select(1.0, restore_by=restore, scope=scope)
    full = generate(family, [reduced(tokens, scales=(2, 3, 4))] * 2)[-1]
    assert torch.equal(plain.latent, full.latent)
    merged = generate(family, [reduced(Merge(1.0, scope=scope), scales=(2, 3, 4))] * 2)[-1]
    assert torch.equal(plain.latent, merged.latent)


@families
@pytest.mark.parametrize(
    "tokens",
    [
        *(Select(0.4, restore_by=r) for r in RESTORES),
        Select(0.3, score="norm", scope="group", dense=(0.2, 0.3)),
        Merge(0.4),
    ],
    ids=str,
)
def test_reduced_images_do_not_depend_on_their_batch(family, tokens):
    plans = [reduced(tokens), Plan.uniform(SCALES, guidance=2.0), reduced(tokens, branch="cond", carry=0.5)]
    together = generate(family, plans)[-1].latent
    for i in range(3):
        alone = generate(family, [plans[i]], seeds=[i + 1], prompts=[PROMPTS[i]])[-1].latent
        assert torch.allclose(together[i], alone[0], atol=EXACT[family])


@families
def test_fewer_rows_are_processed_and_cached(family):
    lengths = {}

    def tap(name, k, tensor):
        if name == "attended.1":
            lengths[k] = tensor.shape[2]

    steps = generate(family, [reduced(Select(0.25, restore_by="nearest"))], tap=tap)
    tokens = [MODELS[family].rows(at) for at in scales(MODELS[family].schedule())]
    few = [kept(0.25, count) for count in tokens]
    assert [step.records[0].rows for step in steps] == [2 * t for t in tokens[:3]] + [2 * few[3], 2 * few[4]]
    assert lengths[4] == sum(tokens[:3]) + few[3] + few[4]


def test_a_record_has_the_mean_of_the_rows_over_the_blocks_rounded():
    tokens = Select(0.6, restore_by="nearest", dense=(0.3, 0.0))
    steps = generate("scenes", [reduced(tokens, scales=[3])])
    assert steps[3].records[0].rows == 37  # 50 in one block, 30 in two


@families
def test_a_scale_that_is_not_cached_is_not_seen_later(family):
    lengths = {}

    def tap(name, k, tensor):
        if name == "attended.0":
            lengths[k] = tensor.shape[2]

    generate(family, [Plan.uniform(SCALES).replace([3], cache="none")], tap=tap)
    tokens = [MODELS[family].rows(at) for at in scales(MODELS[family].schedule())]
    assert lengths[4] == sum(tokens[:3]) + tokens[4] and lengths[3] == sum(tokens[:4])


@families
def test_rows_left_out_to_the_end_add_no_codes(family):
    latents, index = {}, {}

    def tap(name, k, tensor):
        if name == "codes":
            index[k] = tensor.shape[1]

    for step in generate(family, [reduced(Select(0.3, restore_by="zero_code"), scales=(4,))], tap=tap):
        latents[step.scale] = step.latent
    grid = MODELS[family].schedule()[4]
    assert index[4] == kept(0.3, grid[0] * grid[1])
    touched = (latents[4] - latents[3]).abs().sum(1)
    if touched.shape[-2:] == torch.Size(grid):
        assert int((touched > 0).sum()) <= index[4]


@families
def test_reuse_runs_no_rows_and_reads_the_scale_before(family):
    steps = generate(family, [Plan.uniform(SCALES, guidance=2.0).replace([3, 4], run="reuse")])
    assert [step.records[0].rows > 0 for step in steps] == [True] * 3 + [False] * 2
    assert not torch.equal(steps[4].latent, steps[2].latent)


@families
def test_carried_guidance_differs_from_none_and_vanishes_at_weight_one(family):
    def last(guidance, carry):
        plan = Plan.uniform(SCALES, guidance=guidance, temperature=0.0).replace([3, 4], branch="cond", carry=carry)
        logits = {}
        generate(family, [plan], tap=lambda name, k, t: logits.update({k: t}) if name == "logits" else None)
        return logits[3]

    assert torch.equal(last(1.0, 0.7), last(1.0, 0.0))
    assert not torch.allclose(last(3.0, 0.7), last(3.0, 0.0))


def test_guidance_is_carried_past_a_scale_that_leaves_rows_out():
    plan, logits = reduced(Select(0.5, restore_by="zero_code"), scales=[2]), []
    for carry in (0.0, 0.7):
        carried = plan.replace([3, 4], branch="cond", carry=carry)
        generate("scenes", [carried], tap=lambda name, k, x: logits.append(x) if (name, k) == ("logits", 3) else None)
    assert not torch.allclose(*logits)


@pytest.mark.parametrize(
    "scales",
    [
        (ScalePlan(run="reuse"), ScalePlan()),
        (ScalePlan(tokens=Select(0.5, restore_by="zero_code")), ScalePlan(run="reuse")),
        (ScalePlan(tokens=Select(0.5, restore_by="zero_code")), ScalePlan(tokens=Select(0.5))),
        (ScalePlan(tokens=Select(0.5, scope="group")), ScalePlan(tokens=Select(0.5))),
        (ScalePlan(), ScalePlan(run="reuse"), ScalePlan(tokens=Select(0.5))),
        (ScalePlan(tokens=Select(0.5)), ScalePlan()),
    ],
)
def test_plans_whose_restoration_finds_nothing_are_refused(scales):
    with pytest.raises(OptionError, match="scale"):
        Plan(scales)


@pytest.mark.parametrize("fields", [{"scope": "group"}, {"dense": (0.25, 0.0)}], ids=str)
def test_a_scale_restores_from_one_that_is_grouped_alike(fields):
    earlier = Select(0.5, **fields)
    Plan((ScalePlan(), ScalePlan(tokens=earlier), ScalePlan(tokens=Select(0.3, **fields))))
    with pytest.raises(OptionError, match=r"scale 2 restores rows .* grouped alike"):
        Plan((ScalePlan(), ScalePlan(tokens=earlier), ScalePlan(tokens=Select(0.5))))


@pytest.mark.parametrize(
    "fields", [{"keep": 0.0}, {"keep": 1.2}, {"keep": math.nan}, {"keep": 0.5, "dense": (0.6, 0.5)}]
)
def test_shares_out_of_range(fields):
    for kind in (Select, Merge):
        with pytest.raises(OptionError):
            kind(**fields)


def test_zero_code_needs_the_whole_network():
    for fields in ({"scope": "group"}, {"dense": (0.0, 0.2)}, {"score": "norm"}):
        with pytest.raises(OptionError, match="zero_code"):
            Select(0.5, restore_by="zero_code", **fields)


def test_of_tied_scores_the_first_positions_win_whatever_rounding_says():
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 5.0, 0.0, 0.0]])
    assert highest(scores, 3).tolist() == [[0, 2, 3], [0, 1, 3]]
    rounded = scores * (1 + TIE / 4 * torch.tensor([0.0, 0.0, -1.0, 1.0, 0.5, 0.0]))
    assert highest(rounded, 3).tolist() == [[0, 2, 3], [0, 1, 3]]
    assert highest(scores + torch.tensor([0.0, 0.0, 0.0, 0.0, 0.01, 0.0]), 2).tolist()[0] == [0, 4], "no tie"
    assert highest(rows(2, 9).abs(), 9).tolist() == [list(range(9))] * 2
