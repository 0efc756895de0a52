"""FastVAR, SparVAR, ScaleKV and LazyVAR: plans of the published settings, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F

from stagevar.accelerators.base import Facts
from stagevar.accelerators.fastvar import FastVAR
from stagevar.accelerators.lazyvar import LazyVAR, update_index
from stagevar.accelerators.scalekv import ScaleKV
from stagevar.accelerators.sparvar import SparVAR
from stagevar.engine.grids.grid import Scale
from stagevar.engine.loop.run import run
from stagevar.engine.plan.evict import WindowVotes
from stagevar.engine.plan.local import Local
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.parts import PartRows, blocks
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import kept
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import OptionError
from stagevar.families.infinity.grids import SCHEDULES
from stagevar.families.infinity.network import Infinity, InfinityConfig
from stagevar.families.tiny import randomize, tiny
from stagevar.families.tokenizers.bsq import TokenizerConfig
from stagevar.measure.predict.flops import plan_flops
from stagevar.pipeline import Pipeline
from stagevar.registry import parse

SQUARE = SCHEDULES[64, 64]
PLAIN = Plan.uniform(13, guidance=3.0)
FACTS = Facts(32, 8, True)
GROWN = [1, 5, 21, 57, 121, 265, 521, 921, 1497, 2521, 4121, 6425]


def test_fastvar_runs_what_its_code_runs():
    plan = FastVAR().plan(PLAIN, SQUARE, FACTS)
    assert plan.executed == tuple(range(11))
    rule = PartRows(0.4, layers=(3 / 32, 28 / 32), source=8, mode="area")
    assert plan[9].parts == (rule,) and plan[10].parts[0].source == 8 and plan[10].parts[0].count(1600) == 800
    assert not any(scale.parts for scale in plan.scales[:9])
    assert list(blocks(rule.layers, 32)) == list(range(3, 28))


def test_fastvar_fills_from_a_scale_further_back():
    plan = FastVAR(1, (0.4, 0.0), lag=2, roles=("attention",)).plan(PLAIN, SQUARE, FACTS)
    assert [plan[k].parts[0].source for k in (10, 11)] == [8, 8] and plan[11].parts[0].count(9) == 9
    assert plan[10].parts[0].roles == ("attention",)
    for lag in (0, 10):
        with pytest.raises(OptionError, match="9 scales run before the first that prunes"):
            FastVAR(lag=lag).plan(PLAIN, SQUARE, FACTS)


def thin(depth):
    """A network of one megapixel, as deep as asked and very narrow."""
    tokenizer = TokenizerConfig(bits=4, encoder=None, decoder=None)
    model = Infinity(InfinityConfig(8, depth, 2, 2, tokenizer, 128, 8, 32.0))
    randomize(model, 0)
    return model


def drawn(accelerator):
    """Lengths by tap name, layer and scale of a run at one megapixel."""
    model, seen = thin(4), {}
    plan = accelerator.plan(PLAIN, SQUARE, Facts(4, 2, True))

    def tap(name, k, tensor):
        kind, _, layer = name.partition(".")
        if kind in ("attended", "kept"):
            seen[kind, int(layer), k] = tensor.shape[2]

    list(run(model, model.condition(model.blank_text(3)), SQUARE, [plan], [0], tap=tap))
    return seen


@pytest.mark.slow
def test_caches_of_fastvar_hold_the_rows_that_ran():
    seen = drawn(FastVAR())
    pruned = blocks((3 / 32, 28 / 32), 4)
    for layer in range(4):
        ran = (615, 800) if layer in pruned else (1024, 1600)
        assert seen["attended", layer, 9] == 1497 + ran[0]
        assert seen["attended", layer, 10] == 1497 + sum(ran)


def test_sparvar_runs_what_its_code_runs():
    plan = SparVAR().plan(PLAIN, SQUARE, FACTS)
    assert [k for k in range(13) if plan[k].attend] == [10, 11, 12]
    for k in (10, 11, 12):
        similar, local = plan[k].attend
        assert list(blocks(similar.layers, 32)) == list(range(11)) and list(blocks(local.layers, 32)) == list(
            range(11, 32)
        )
    assert [plan[k].attend[0].source for k in (10, 11, 12)] == [None, 10, 10] and plan[12].attend[0].through == (11,)
    assert plan[11].attend[0].needs == (("correction", 10), ("keys", 10))
    assert plan[12].attend[0].needs == (("correction", 10), ("keys", 11))


def test_sparvar_chooses_keys_only_where_a_later_scale_reads_them():
    assert len(parse("drop_last(1)+sparvar").plan(PLAIN, SQUARE, FACTS)[11].attend) == 2
    for text, facts in (
        ("drop_last(2)+sparvar", FACTS),
        ("sparvar(cs4a=False)", FACTS),
        ("sparvar(bound=0.0)", FACTS),
        ("sparvar", Facts(32, 8, False)),
    ):
        plan = parse(text).plan(PLAIN, SQUARE, facts)
        assert [type(each) for each in plan[10].attend] == [Local]
    [similar] = SparVAR(bound=1.0).plan(PLAIN, SQUARE, FACTS)[12].attend
    assert list(blocks(similar.layers, 32)) == list(range(32))


@pytest.mark.parametrize("size", [(78, 52), (52, 78), (52, 39)])
def test_sparvar_is_sparse_at_other_ratios(size):
    schedule = next(
        s for s in SCHEDULES.values() if abs(s[-1][0] / s[-1][1] - size[0] / size[1]) < 0.05 and len(s) > 12
    )
    model = thin(4).to("meta")
    plan = SparVAR(bound=0.0).plan(PLAIN, schedule, Facts(4, 2, True))
    for k in (10, 11, 12):
        plain, local = (plan_flops(model, schedule, each, 3)[k].attention for each in (PLAIN, plan))
        assert 0.1 < local / plain < 0.3


def test_scalekv_keeps_the_published_budgets():
    plan = ScaleKV().plan(PLAIN, SQUARE, FACTS)
    assert [k for k in range(13) if isinstance(plan[k].cache, WindowVotes)] == [7, 8, 9, 10, 11]
    rows = [plan[k].cache.capacities for k in range(7, 12)]
    assert [row[1] for row in rows] == [632, 594, 526, 420, 465]
    assert [[layer for layer, kept in enumerate(row) if kept > 650] for row in rows] == [[0, 23]] * 4 + [[0]]
    assert [1000 * row[0] // GROWN[k] for k, row in enumerate(rows, 7)] == [993] * 5
    live = [rows[i][1] + Scale(SQUARE, 8 + i).tokens for i in range(5)]
    assert live == [1208, 1618, 2126, 2724, 4561]


def test_scalekv_takes_a_table_that_ends_with_the_schedule():
    table = ((100, 200), (300, 400), (500, 600))
    plan = ScaleKV(table=table).plan(PLAIN, SQUARE, Facts(2, 1, True))
    assert [plan[k].cache.capacities for k in (10, 11)] == [(100, 200), (300, 400)]
    assert plan[9].cache == plan[12].cache == "all"
    late = ScaleKV(table=table, after=5000).plan(PLAIN, SQUARE, Facts(2, 1, True))
    assert late[10].cache == "all" and late[11].cache != "all"
    with pytest.raises(OptionError, match="one number for each of the 3 blocks"):
        ScaleKV(table=table).plan(PLAIN, SQUARE, Facts(3, 1, True))


def test_lazyvar_runs_what_its_note_says():
    plan = LazyVAR().plan(PLAIN, SQUARE, FACTS)
    assert plan.passes == (*((k,) for k in range(9)), (9, 10, 11, 12))
    rows = [kept(plan[k].tokens.keep, Scale(SQUARE, k).tokens) for k in (9, 10, 11, 12)]
    assert rows == [205, 160, 115, 41]
    assert [round(plan[k].tokens.behind, 4) for k in (9, 10, 11, 12)] == [0.16, 0.06, 0.01, 0.0]
    assert not any(scale.tokens for scale in plan.scales[:9])
    assert LazyVAR(()).plan(PLAIN, SQUARE, FACTS) == PLAIN
    shorter = parse("drop_last(2)+lazyvar(shares=(0.5, 1.0))").plan(PLAIN, SQUARE, FACTS)
    assert shorter.passes[-1] == (9, 10) and shorter[10].tokens is None


@pytest.mark.parametrize(("branch", "guidance"), [("cond", 1.0), ("null", 0.0)])
def test_lazyvar_runs_both_branches_where_guidance_ends_within_its_pass(branch, guidance):
    ended = PLAIN.replace([11, 12], branch=branch)
    plan = LazyVAR().plan(ended, SQUARE, FACTS)
    assert [(plan[k].branch, plan[k].guidance) for k in (10, 11, 12)] == [
        ("both", g) for g in (3.0, guidance, guidance)
    ]
    assert LazyVAR((0.2, 0.1)).plan(ended, SQUARE, FACTS)[12].branch == branch
    model = tiny("infinity")
    drawn = []
    for each in (plan, plan.replace([11, 12], group=False).replace([11, 12], branch=branch)):
        each = Plan(each.scales[6:]).replace(range(7), tokens=None, group=False)
        drawn.append(list(run(model, model.condition(model.blank_text(3)), model.schedule(), [each], [0]))[-1].latent)
    assert torch.allclose(*drawn, atol=1e-4)


def test_lazyvar_deals_the_positions_that_turned_most_to_the_largest_grid():
    """Every position of the final grid goes to one scale at most, in the order of its update index."""
    before, change = torch.randn(2, 8, 8, 8), torch.randn(2, 8, 8, 8)
    turned = 1 - F.cosine_similarity(before + change, before)
    assert torch.allclose(update_index(before + change, change)[:, 0], turned, atol=1e-6)
    plan = LazyVAR((0.25, 0.5, 0.125)).plan(Plan.uniform(4), ((8, 8),) * 4, FACTS)
    places = {}
    for k in (1, 2, 3):
        context = TokenContext(k, (8, 8), 0, 1, None, [0, 1], before + change, change, Memory())
        places[k] = plan[k].tokens.reduce(torch.zeros(4, 64, 2), context).index
        assert torch.equal(places[k][:2], places[k][2:])
    for i in range(2):
        ranked = turned[i].flatten().argsort(descending=True).tolist()
        assert [set(places[k][i].tolist()) for k in (3, 2, 1)] == [
            set(ranked[:8]),
            set(ranked[8:40]),
            set(ranked[40:56]),
        ]


def test_scalekv_says_before_drawing_that_a_model_caches_nothing():
    with pytest.raises(OptionError, match="caches none"):
        Pipeline(tiny("switti"))("a star", seed=1, accelerator="scalekv")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("fastvar(prune=(0.4, 1.5))", "prune"),
        ("fastvar(prune=('a',))", "shares"),
        ("fastvar(first=0.9)", "layers"),
        ("fastvar(skip=99)", "scales"),
        ("fastvar(roles=('head',))", "roles"),
        ("fastvar+drop_last(1)", "both decide the axis 'run'"),
        ("lazyvar(shares=(0.5, 0.0))", "shares"),
        ("lazyvar(shares=(0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1))", "runs 7 scales"),
        ("lazyvar+stagevar", "both decide the axis 'tokens'"),
        ("lazyvar+reuse_last(1)", "both decide the axis 'tokens'"),
        ("sparvar(windows=())", "window"),
        ("sparvar(windows=('a',))", "whole numbers"),
        ("sparvar(similar=(0,))", "windows"),
        ("sparvar(similar=('a',))", "whole numbers"),
        ("sparvar(top=0.0)", "share of keys"),
        ("sparvar(bound=1.5)", "bound"),
        ("scalekv(budget=0.0)", "budget"),
        ("scalekv(drafters=(1.5,))", "shares of the depth"),
        ("scalekv(table=((1, 2),))", "capacities"),
        ("scalekv(pool=2)", "odd pool"),
    ],
)
def test_what_cannot_be_planned_is_named(text, word):
    with pytest.raises(OptionError, match=word):
        Pipeline(tiny("infinity"))("a star", seed=1, accelerator=text)
