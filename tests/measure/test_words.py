"""What the page says in words follows from the plan and the request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.errors import OptionError, PromptError, SizeError
from stagevar.families.tiny import tiny
from stagevar.measure.why.words import changes, stages, stretches
from stagevar.pipeline import Pipeline
from stagevar.registry import known
from stagevar.request import Request
from stagevar.ui.asked import has_dial, read, shown

SCHEDULE = ((1, 1), (2, 2), (4, 4), (6, 6))
PLAIN = Plan.uniform(4, guidance=2.0)


def said(plan: Plan) -> list[str]:
    return [str(stretch) for stretch in stretches(plan, PLAIN, SCHEDULE)]


def test_the_plain_run_is_one_stretch() -> None:
    assert said(PLAIN) == ["Scales 0 to 3 (1x1 to 6x6): as in the plain run."]


def test_scales_that_run_alike_are_taken_together() -> None:
    plan = PLAIN.replace([2, 3], branch="cond").replace([3], run="skip", stage="fidelity")
    assert said(plan) == [
        "Scales 0 to 1 (1x1 to 2x2): as in the plain run.",
        "Scale 2 (4x4): the prompt's branch runs alone.",
        "Scale 3 (6x6): not run, no codes are added.",
    ]


def test_a_stage_parts_scales_that_run_alike() -> None:
    plan = PLAIN.replace([1, 2], stage="semantic").replace([3], stage="structure")
    assert stages(plan) == ["semantic", "semantic", "semantic", "structure"]
    assert [stretch.first for stretch in stretches(plan, PLAIN, SCHEDULE)] == [0, 3]
    assert stages(PLAIN.replace([3], stage="fidelity")) == [None, None, None, "fidelity"]


def test_every_field_that_differs_is_said() -> None:
    plain, odd = ScalePlan(), ScalePlan(temperature=0.5, top_k=3, cache="none", guidance=4.0)
    assert set(changes(odd, plain)) == {"temperature 0.5", "top k 3", "its keys and values are not kept", "guidance 4"}


def test_parts_are_said_if_they_run_less() -> None:
    off = PartRows(1.0, ("attention",), (0.0, 1 / 3))
    for rule, words in (
        (off, ["attention of blocks 0% to 33% of the depth does not run, rows get what it added before"]),
        (replace(off, prune=0.0), []),
        (
            replace(off, prune=0.25),
            ["attention of blocks 0% to 33% of the depth process 75% of the rows, the others get what it added before"],
        ),
        (PartRows(1.0, ("cross",), fill="zero"), ["cross of all blocks does not run"]),
    ):
        assert list(changes(ScalePlan(parts=(rule,)), ScalePlan())) == words


@pytest.mark.parametrize("name", [name for name in known() if name not in ("none", "stagevar", "skipvar", "ssg")])
def test_every_accelerator_that_changes_a_plan_has_words_for_it(name: str) -> None:
    pipe = Pipeline(tiny("scenes"))
    plain, own = (pipe.prepare(Request("a star", accelerator=each)) for each in ("none", name))
    clauses = [clause for stretch in stretches(own.plan, plain.plan, own.schedule) for clause in stretch.changes]
    assert clauses and not any("(PartRows(" in clause or "object at" in clause for clause in clauses)
    assert not any("True" in clause for clause in clauses)


def test_the_fields_of_the_page_become_the_request_of_every_other_door() -> None:
    model = tiny("scenes")
    size = model.sizes()[0]
    request = read(model, "a star", shown(size), " 7 ", "stagevar", 0.25)
    assert (request.height, request.width, request.seed, str(request.accelerator)) == (
        *size,
        7,
        "stagevar(quality=0.25)",
    )
    assert str(read(model, "a star", shown(size), "7", "stagevar(0.9)", 0.25).accelerator) == "stagevar(quality=0.9)"
    assert str(read(model, "a star", shown(size), "7", "drop_last(2)", 0.25).accelerator) == "drop_last(n=2)"


def test_an_empty_seed_is_a_fresh_one() -> None:
    model = tiny("scenes")
    seeds = {read(model, "a star", shown(model.sizes()[0]), "", "none", 0.5).seed for _ in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("prompt", " ", PromptError, "the prompt is empty"),
        ("prompt", "x" * 5000, OptionError, "at most 4000"),
        ("size", "63 x 64", SizeError, "draws no '63 x 64' pictures"),
        ("size", "64 x 64\n", SizeError, "choose a size of the list"),
        ("seed", "-1", OptionError, "between 0 and"),
        ("seed", "1.5", OptionError, "must be a whole number"),
        ("seed", "9" * 5000, OptionError, "must be a whole number"),
        ("seed", str(2**64), OptionError, "between 0 and"),
        ("accelerator", "stagvar", OptionError, "did you mean stagevar"),
        ("accelerator", "stagevar(quality=2)", OptionError, "between 0 and 1"),
        ("accelerator", "stagevar_paper(profile='/etc/passwd')", OptionError, "profile names a file"),
    ],
)
def test_bad_input_is_refused_with_the_error_of_every_other_door(
    field: str, value: str, error: type[Exception], message: str
) -> None:
    model = tiny("scenes")
    fields = {"prompt": "a star", "size": shown(model.sizes()[0]), "seed": "1", "accelerator": "none"} | {field: value}
    with pytest.raises(error, match=message):
        read(model, **fields, quality=0.5)


def test_the_dial_belongs_to_bare_names_of_accelerators_that_have_one() -> None:
    assert has_dial("stagevar") and has_dial(" stagevar ")
    assert not any(map(has_dial, ("fastvar", "stagevar(0.1)", "stagevar+drop_last", "", "nothing")))
