"""DepthVAR: the order of blocks, ranks and depths, and the plan."""

import pytest
import torch

from stagevar.accelerators.base import Facts
from stagevar.accelerators.depthvar import ByDepth, DepthVAR, Turned, left_out, spread_order
from stagevar.engine.loop.run import run
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.parts import blocks
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import ranked
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.loading.sources import skeleton
from stagevar.measure.predict.explain import explain
from stagevar.registry import parse

PLAIN = Plan.uniform(5, guidance=2.0)
SCHEDULE = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6))


def planned(depth, **more):
    return DepthVAR(depth, **more).plan(PLAIN, SCHEDULE, Facts(8, 1, True))


def test_the_first_blocks_of_the_order_are_spread_evenly():
    assert spread_order(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert spread_order(32)[:5] == [0, 16, 8, 24, 4]
    assert sorted(spread_order(28)) == list(range(28)) and spread_order(1) == [0]


def test_ranks_rise_with_scores_and_the_first_of_tied_ones_ranks_highest():
    assert ranked(torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])).tolist() == [[3, 0, 2, 1], [3, 2, 1, 0]]
    rounded = torch.tensor([[1.0, 1.0 + 1e-7, 0.5]])
    assert ranked(rounded).tolist() == [[2, 1, 0]]


def test_ranks_turn():
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert Turned().scores(scores).tolist() == [[0.125, 0.375, 0.625, 0.875]]
    assert Turned(turn=0.25).scores(scores).tolist() == [[0.375, 0.625, 0.875, 0.125]]
    plan = planned((0.5, 0.5, 0.5))
    assert [plan[k].watch[0].turn for k in (1, 2, 3)] == [0, 0.25, 0.5] and not plan[4].watch


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_tokens_run_through_as_many_blocks_as_their_rank_says(share):
    """The blocks that process a token are the first of the order, and their share is the power of its rank."""
    plan, count = planned((share,)), 200
    ranks = (torch.arange(count) + 0.5) / count
    depths = torch.zeros(count)
    for rule, block in zip(plan[4].parts, spread_order(8), strict=True):
        assert list(blocks(rule.layers, 8)) == [block]
        depths[count - rule.count(count) :] += 1
    assert (depths[1:] >= depths[:-1]).all()
    assert (depths / 8 - ranks ** (1 / share - 1)).abs().max() <= 1 / 16 + 0.025
    assert depths.mean() / 8 == pytest.approx(share, abs=0.02)


def test_codes_count_as_the_blocks_of_their_token():
    memory, order = Memory(), Turned(turn=0.5)
    memory.put("watched", order, 1, torch.tensor([[4.0, 3.0, 2.0, 1.0]])[..., None], (2, 2))
    context = TokenContext(2, (2, 2), 0, 1, None, [0], torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), memory, 1)
    gain = ByDepth(order, left_out(0.5, 8))(context)
    assert torch.allclose(gain, torch.tensor([[0.5, 0.25, 1.0, 0.75]]))
    processed = [4 - rule.count(4) for rule in planned((0.5,))[4].parts]
    assert [sum(rank >= least for least in processed) / 8 for rank in (1, 0, 3, 2)] == gain[0].tolist()
    assert [planned((0.5,), blend=blend)[4].gain is None for blend in (True, False)] == [False, True]


def test_two_shares_are_near_the_claims_by_operations():
    model = skeleton("infinity-2b")
    assert explain(model, "depthvar")["flop_ratio"] == pytest.approx(1.95, abs=0.1)
    assert explain(model, "depthvar((0.3, 0.3, 0.3, 0.3))")["flop_ratio"] == pytest.approx(3.0, abs=0.1)


def test_what_a_block_does_not_process_it_adds_as_at_the_scale_before():
    """With a share near 0 only the first block of the order processes anything at all."""
    model, seen = tiny("scenes"), {}
    plan = DepthVAR((0.01,), blend=False).plan(PLAIN, model.schedule(), Facts(model.depth, 1, True))
    condition = model.condition(model.encode_text(["a red star"]))
    list(run(model, condition, model.schedule(), [plan], [3], tap=lambda name, k, x: seen.__setitem__((name, k), x)))
    h, w = model.schedule()[3]
    before = seen["part.1.feed_forward", 3].mT.reshape(2, -1, h, w)
    filled = torch.nn.functional.interpolate(before, model.schedule()[4], mode="bilinear").flatten(2).mT
    assert (seen["chosen.1.feed_forward", 4].shape[1], seen["block.1", 4].shape[1]) == (1, 36)
    same = (seen["part.1.feed_forward", 4] - filled).abs().amax(-1) < 1e-5
    assert same.sum() >= 2 * 35


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("depthvar(depth=(0.0,))", "depth"),
        ("depthvar(depth=('a',))", "depth"),
        ("depthvar(turn=1.0)", "turn"),
        ("depthvar+fastvar", "both decide the axis 'parts'"),
    ],
)
def test_settings_out_of_range_are_refused(text, word):
    with pytest.raises(OptionError, match=word):
        parse(text)


def test_a_scale_must_run_before_the_first_that_has_depths():
    with pytest.raises(OptionError, match="0 to 4 can be named"):
        planned((0.5,) * 5)
