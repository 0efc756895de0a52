"""The registry, and what every accelerator must hold to."""

import ast
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from stagevar import accelerators
from stagevar.accelerators.base import Accelerator, Facts, Nothing
from stagevar.engine.grids.grid import Scale
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.signals import SETTLED
from stagevar.errors import OptionError
from stagevar.families.infinity.grids import SCHEDULES
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.registry import known, parse
from stagevar.request import Request

PIPES = {"infinity": Pipeline(tiny("infinity")), "scenes": Pipeline(tiny("scenes"))}
CONTROLS = ["drop_last(1)", "drop_last(4)", "guidance_off(2)", "guidance_off(2, branch='null')", "reuse_last(1)"]
SUMS = ["drop_last(1)+guidance_off(1)", "drop_last(1)+lazyvar(shares=(0.4, 0.2))", "guidance_off(2)+reuse_last(1)"]
ALL = ["none", *CONTROLS, *SUMS, "lazyvar", "stagevar_released", "stagevar_paper", "stagevar", "stagevar(quality=0.0)"]
PROMPTS = ["a red circle", "two yellow rings", "a star above a cross"]


@pytest.mark.parametrize("text", ALL)
def test_text_and_dataclass_are_the_same_thing(text):
    accelerator = parse(text)
    assert parse(str(accelerator)) == accelerator and hash(accelerator) == hash(parse(text))


def test_every_accelerator_is_found_frozen_and_documented():
    assert {"none", "drop_last", "guidance_off", "reuse_last", "stagevar_released", "stagevar_paper"} <= set(known())
    for name, cls in known().items():
        one = cls()
        assert cls.__doc__ and parse(name) == one
        for f in fields(cls):
            with pytest.raises(FrozenInstanceError):
                setattr(one, f.name, 1)


def test_what_is_published_of_a_method_is_told_with_where_it_is_from():
    for name, cls in known().items():
        assert bool(cls.citation) == bool(cls.source), name
        assert cls.citation or not cls.claims, f"{name}: who claims that?"
        for claim in cls.claims:
            assert claim.on and claim.quality and (claim.speedup is None or claim.speedup > 0)


@pytest.mark.parametrize("name", [name for name, cls in known().items() if cls.identity is not None])
@pytest.mark.parametrize("family", list(PIPES))
def test_identity_settings_are_bit_identical_to_the_plain_run(family, name):
    plain = PIPES[family](PROMPTS[:2], seed=3, output_type="latent")
    same = PIPES[family](PROMPTS[:2], seed=3, output_type="latent", accelerator=known()[name](**known()[name].identity))
    assert all(torch.equal(a, b) for a, b in zip(plain.images, same.images, strict=True))


def test_files_are_short():
    for file in Path(accelerators.__path__[0]).glob("*.py"):
        assert len(file.read_text().splitlines()) <= 220, file.name


def test_no_accelerator_names_a_family_in_code():
    for file in Path(accelerators.__path__[0]).glob("*.py"):
        words = {n.id for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Name)}
        assert not words & {"infinity", "star", "hart", "var", "switti"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("fast_forward", "drop_last"),
        ("drop_last(m=1)", "its fields are n"),
        ("drop_last(1, 2)", "its fields are n"),
        ("drop_last(n=open('x'))", "literal|numbers"),
        ("drop_last(", "cannot read"),
        ("drop_last - none", "cannot read"),
        ("__import__('os')", "no accelerator"),
        ("", "cannot read"),
        ("guidance_off(1, branch='up')", "branch"),
        ("stagevar_released(alpha=0.5)", "alpha"),
        ("stagevar_released(rotary='middle')", "rotary must be one of first, drawn"),
        ("stagevar_released+stagevar_paper", "branch|tokens"),
        ("drop_last(1.5)", "kind"),
        ("drop_last('x')", "kind"),
        ("stagevar(quality=1.5)", "quality"),
        ("drop_last(99)", "scales"),
        ("drop_last(-1)", "scales"),
    ],
)
def test_what_cannot_be_read_or_planned_is_named(text, word):
    with pytest.raises(OptionError, match=word):
        PIPES["scenes"]("a star", seed=1, accelerator=text)


@pytest.mark.parametrize("family", list(PIPES))
@pytest.mark.parametrize("text", ALL)
def test_an_accelerated_image_does_not_depend_on_its_batch(family, text):
    pipe = PIPES[family]
    batch = pipe(PROMPTS, seed=[1, 2, 3], output_type="latent", accelerator=text)
    for i, prompt in enumerate(PROMPTS):
        alone = pipe(prompt, seed=i + 1, output_type="latent", accelerator=text)
        assert torch.allclose(batch.images[i], alone.images[0], atol=1e-4)
        assert batch.trace.executed(i) == alone.trace.executed(0)


@pytest.mark.parametrize("text", ALL)
def test_the_same_text_works_at_every_aspect_ratio_and_budget(text):
    facts = Facts(depth=32, groups=8, causal=True)
    for schedule in SCHEDULES.values():
        plan = parse(text).plan(Plan.uniform(len(schedule), guidance=3.0), schedule, facts)
        assert len(plan) == len(schedule)
        assert plan.executed[:3] == (0, 1, 2)


def test_controls_do_what_they_say():
    def scales(text):
        return PIPES["scenes"].prepare(Request("x", accelerator=text)).plan

    assert scales("drop_last(2)").executed == (0, 1, 2)
    assert [s.branch for s in scales("guidance_off(2)")] == ["both"] * 3 + ["cond"] * 2
    assert [s.run for s in scales("reuse_last(1)")] == ["full"] * 4 + ["reuse"]
    combined = scales("drop_last(1)+guidance_off(1)")
    assert combined.executed == (0, 1, 2, 3) and combined[3].branch == "cond" and combined[2].branch == "both"


def test_a_branch_that_a_plan_runs_alone_already_stays():
    plan = Plan.uniform(4, guidance=2.0).replace([2, 3], branch="null")
    assert parse("guidance_off(1)").plan(plan, ((1, 1),) * 4, Facts(1, 1, True)) == plan


def test_reuse_runs_no_rows_so_that_none_are_reduced():
    plan = Plan.uniform(4).replace([3], tokens=Select(0.5))
    last = parse("reuse_last(1)").plan(plan, ((1, 1),) * 4, Facts(1, 1, True))[3]
    assert (last.run, last.tokens) == ("reuse", None)


@dataclass(frozen=True)
class Colder(Accelerator):
    """Lowers the temperature after every scale."""

    name: ClassVar[str] = "colder"
    owns: ClassVar[frozenset[str]] = frozenset({"temperature"})
    online: ClassVar[bool] = True

    def revise(self, plan, at, signals):
        return plan.replace(range(at.k + 1, len(plan)), temperature=0.5)


def test_every_part_of_a_sum_revises_the_plan():
    both = Colder() + parse("stagevar(quality=0.0)")
    revised = both.revise(Plan.uniform(2, guidance=2.0), Scale(((1, 1), (1, 1)), 0), SETTLED)
    assert (revised[1].temperature, revised[1].branch) == (0.5, "cond")


def test_a_sum_is_checked_and_an_empty_accelerator_changes_nothing():
    assert isinstance(parse("none"), Nothing)
    plan = Plan.uniform(4)
    assert Accelerator.plan(Nothing(), plan, ((1, 1),) * 4, Facts(1, 1, True)) == plan
