from typing import Any

import pytest

from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.watch import CodeEntropy
from stagevar.errors import OptionError


def test_defaults_are_the_plain_run():
    plain = ScalePlan()
    assert (plain.run, plain.branch, plain.guidance, plain.temperature) == ("full", "both", 1.0, 1.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"run": "half"},
        {"branch": "none"},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"guidance": float("nan")},
        {"guidance": "x"},
        {"guidance_layer": 0.5},
        {"top_k": 1.5},
        {"temperature": float("inf")},
        {"carry": float("inf")},
        {"smooth": 1.5},
        {"smooth": True},
    ],
)
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(OptionError, match=next(iter(fields))):
        ScalePlan(**fields)


def test_a_dropped_branch_cannot_come_back():
    Plan((ScalePlan(), ScalePlan(branch="cond"), ScalePlan(branch="cond")))
    with pytest.raises(OptionError, match="cannot come back"):
        Plan((ScalePlan(branch="cond"), ScalePlan()))
    with pytest.raises(OptionError, match="cannot come back"):
        Plan((ScalePlan(branch="cond"), ScalePlan(branch="null")))


def test_a_plan_that_runs_nothing_is_refused():
    with pytest.raises(OptionError, match="no scale"):
        Plan.uniform(3, run="skip")


@pytest.mark.parametrize("scales", [[ScalePlan()], (ScalePlan(), "full")], ids=["a list", "a word"])
def test_a_plan_is_a_tuple_of_scale_plans(scales):
    with pytest.raises(OptionError, match="a Plan takes a tuple of ScalePlan"):
        Plan(scales)


def test_uniform_takes_one_value_or_one_per_scale():
    plan = Plan.uniform(3, guidance=[1.0, 2.0, 3.0], temperature=0.5)
    assert [scale.guidance for scale in plan] == [1.0, 2.0, 3.0]
    assert {scale.temperature for scale in plan} == {0.5}
    with pytest.raises(OptionError, match="2 entries"):
        Plan.uniform(3, guidance=(1.0, 2.0))


def test_replace_counts_from_the_end_and_leaves_the_original():
    plan = Plan.uniform(4)
    shorter = plan.replace([-1], run="skip").replace([-2], run="skip")
    assert shorter.executed == (0, 1)
    assert plan.executed == (0, 1, 2, 3)


def test_fields_and_scales_that_do_not_exist():
    with pytest.raises(OptionError, match="no colour"):
        Plan.uniform(3, colour="red")
    with pytest.raises(OptionError, match="no colour"):
        Plan.uniform(3).replace([0], colour="red")
    with pytest.raises(OptionError, match="no scale 3"):
        Plan.uniform(3).replace([3], run="skip")


@pytest.mark.parametrize(
    "length",
    ["a", 2.0, None, 0, -1, 10**7, 10**5000],
    ids=["text", "float", "none", "zero", "negative", "many", "huge"],
)
def test_a_plan_has_a_sensible_number_of_scales(length: Any) -> None:
    with pytest.raises(OptionError, match="a plan has 1 to 1000 scales, not") as raised:
        Plan.uniform(length)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"group": True}, "scale 0 cannot share the pass of a scale before it"),
        ({"group": [False, True, True, 1, True]}, "group must be True or False, not 1"),
        (
            {"group": [False, False, True, False, False], "branch": ["both", "both", "cond", "cond", "cond"]},
            "scales 1 and 2 share a pass but run the branches 'both' and 'cond'",
        ),
        (
            {"group": [False, False, False, True, False], "run": ["full", "full", "full", "reuse", "full"]},
            "scale 3 reuses hidden states, so it has no pass to share",
        ),
        (
            {"group": [False, False, True, False, False], "watch": [(), (CodeEntropy(),), (), (), ()]},
            "scale 1 is watched but its pass goes on",
        ),
        (
            {
                "group": [False, False, False, True, False],
                "tokens": [None, None, None, Select(0.5, source=2), None],
            },
            "scale 3 reads maps of scale 2, which runs in the same pass",
        ),
        (
            {"group": [False, True, True, True, True], "tokens": [None, Select(0.5), None, None, None]},
            "scale 1 cannot restore rows from a scale before it, as none runs",
        ),
    ],
)
def test_scales_that_cannot_share_a_pass_are_named(fields, said):
    with pytest.raises(OptionError, match=said):
        Plan.uniform(5, **fields)


def test_rows_are_restored_from_what_ran_before_the_pass():
    plan = Plan.uniform(5, tokens=[None, None, None, Select(0.5), Select(0.5)]).replace([3, 4], group=True)
    assert [read.scale for k in (3, 4) for read in plan.reads[k]] == [1, 1]
    assert plan.pass_of(3) == (2, 3, 4) and plan.pass_of(1) == (1,)


def test_keys_and_values_are_kept_in_one_dtype() -> None:
    with pytest.raises(OptionError, match="in one dtype"):
        Plan.uniform(3).replace([1], store="bfloat16")
    with pytest.raises(OptionError, match="store must be"):
        Plan.uniform(3, store="float8")
    assert Plan.uniform(3, store="bfloat16")[2].store == "bfloat16"
