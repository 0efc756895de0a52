"""The registry, and what every accelerator must hold to."""

import ast
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import torch

from stagevar import accelerators
from stagevar.accelerators.base import Accelerator, Facts, Nothing
from stagevar.accelerators.sketch import Sketch
from stagevar.accelerators.stagevar_official import MEAN_RANKS, StageVARReleased, ranks
from stagevar.engine.grids.grid import Scale
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.signals import SUPPORT_ENERGIES, Signals
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import MissingFileError, OptionError
from stagevar.families.infinity.grids import SCHEDULES
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.profile import Boundary, Ranks, Rule, StageProfile
from stagevar.registry import known, parse
from stagevar.request import Request

PIPES = {"infinity": Pipeline(tiny("infinity")), "scenes": Pipeline(tiny("scenes"))}
TEXTS = ["none", "drop_last(1)", "guidance_off(2)", "guidance_off(2, branch='null')", "reuse_last(1)"]
SUMS = ["drop_last(1)+guidance_off(1)", "guidance_off(2)+reuse_last(1)"]
ALL = [*TEXTS, *SUMS, "stagevar_released", "stagevar_paper", "stagevar", "stagevar(quality=0.0)"]
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
@pytest.mark.parametrize("text", ["none", "drop_last(0)", "guidance_off(0)", "reuse_last(0)", "stagevar(quality=1.0)"])
def test_identity_settings_are_bit_identical_to_the_plain_run(family, text):
    plain = PIPES[family](PROMPTS[:2], seed=3, output_type="latent")
    same = PIPES[family](PROMPTS[:2], seed=3, output_type="latent", accelerator=text)
    assert all(torch.equal(a, b) for a, b in zip(plain.images, same.images, strict=True))


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


def test_official_ranks_of_the_default_energy():
    """The ranks of Infinity-2B at 40x40, 48x48 and 64x64 tokens."""
    expected = {
        3: (1600, [27, 219, 337, 401, 410, 317, 252, 306]),
        2: (2304, [31, 271, 437, 512, 541, 422, 309, 376]),
        1: (4096, [34, 223, 341, 273, 233, 122, 157, 228]),
    }
    for from_end, (tokens, want) in expected.items():
        assert [int(ratio * tokens) + 1 for ratio in ranks(0.96, from_end, 8)] == want


def test_ranks_grow_with_the_energy_where_the_official_table_does():
    means = [sum(ranks(alpha, 3, 8)) for alpha in sorted(MEAN_RANKS)]
    assert means == sorted(means)
    assert len(ranks(0.96, 1, 30)) == 30


def test_released_runs_what_the_official_repository_runs():
    schedule = SCHEDULES[64, 64]
    plan = StageVARReleased().plan(Plan.uniform(13, guidance=3.0), schedule, Facts(32, 8, True))
    assert plan.executed == tuple(range(11))
    assert [s.branch for s in plan] == ["both"] * 10 + ["null"] * 3
    assert [s.tokens is not None for s in plan] == [False] * 10 + [True] + [False] * 2


def test_calibrated_ranks_and_boundaries_take_the_place_of_the_tables(tmp_path):
    boundary = Boundary(Rule(("layout",), 0.9), 3, 0.5, 0.5, 0.0, 0.5, 0.5)
    table = tuple(Ranks(share, (share / 4, share / 2), (0.0, 0.0)) for share in (0.25, 0.5, 1.0))
    path, schedule = tmp_path / "profile.json", ((1, 1), (2, 2), (4, 4), (6, 6), (8, 8))
    StageProfile("m", "f", {}, schedule, 1, 1, 0, (1.0,), boundary, boundary, {0.96: table}).save(path)
    facts, plain = Facts(depth=4, groups=2, causal=True), Plan.uniform(5, guidance=2.0)
    plan = parse(f"stagevar_paper(profile={str(path)!r})").plan(plain, schedule, facts)
    assert [s.stage for s in plan] == [None] * 3 + ["fidelity"] * 2
    assert plan[3].tokens.ratios == pytest.approx((0.1875, 0.375)) and plan[4].tokens.ratios == (0.25, 0.5)
    released = parse(f"stagevar_released(profile={str(path)!r}, skip=0, single=2, rotary='drawn')")
    plan = released.plan(plain, schedule, facts)
    assert plan[4].tokens == Sketch((0.25, 0.5), rotary="drawn") and plan[3].tokens is None
    assert plan[3].branch == "null" and plan.executed == (0, 1, 2, 3, 4)
    with pytest.raises(OptionError, match="2 groups"):
        released.plan(plain, schedule, Facts(depth=8, groups=8, causal=True))
    with pytest.raises(MissingFileError, match=r"none\.json"):
        parse("stagevar_paper(profile='none.json')").plan(plain, schedule, facts)


def test_mixtures_stand_at_the_first_positions_or_at_the_drawn_ones():
    x, rope = torch.randn(1, 12, 4), torch.randn(12, 2, 2)
    latent = torch.randn(1, 5, 3, 4)
    context = TokenContext(3, (3, 4), 0, 1, rope, [1], latent, latent, Memory())
    first, drawn = (Sketch((0.3,), rotary=rotary).reduce(x, context) for rotary in ("first", "drawn"))
    assert torch.equal(first.rope[0], rope[:4]) and torch.equal(drawn.rope[0], rope[drawn.index[0]])
    assert torch.equal(first.index, drawn.index) and torch.equal(first.x, drawn.x)


def test_a_sum_is_checked_and_an_empty_accelerator_changes_nothing():
    assert isinstance(parse("none"), Nothing)
    plan = Plan.uniform(4)
    assert Accelerator.plan(Nothing(), plan, ((1, 1),) * 4, Facts(1, 1, True)) == plan


def signals(**fields):
    support = tuple(share / 10 for share in range(1, len(SUPPORT_ENERGIES) + 1))
    usual = {"flips": 0.2, "confidence": 0.9, "low": 0.5, "middle": 0.9, "high": 0.9, "support": support}
    return Signals(**usual | fields)


def test_stages_move_forward_only_and_each_is_held_against_the_price_of_the_next_scale():
    schedule = SCHEDULES[64, 64]
    accelerator, plan = parse("stagevar(quality=0.4)"), Plan.uniform(13, guidance=3.0)
    plan = accelerator.revise(plan, Scale(schedule, 8), signals())
    assert {s.stage for s in plan.scales[9:]} == {"semantic"} and plan.scales[9].branch == "both"
    plan = accelerator.revise(plan, Scale(schedule, 9), signals(low=0.1))
    assert {s.stage for s in plan.scales[10:]} == {"structure"}
    assert {(s.branch, s.tokens) for s in plan.scales[10:]} == {("both", None)}
    plan = accelerator.revise(plan, Scale(schedule, 10), signals(low=0.9, flips=0.1))
    assert {s.stage for s in plan.scales[11:]} == {"structure"}
    assert [s.branch for s in plan] == ["both"] * 11 + ["cond"] * 2 and plan[11].tokens is None
    plan = accelerator.revise(plan, Scale(schedule, 11), signals(middle=0.2, flips=None))
    assert plan[12].stage == "fidelity" and plan[12].cache == "none"
    assert plan[12].tokens == Select(plan[12].tokens.keep, score="contrast", restore_by="zero_code")
    same = {"low": 0.1, "middle": 0.5, "flips": 0.1}
    early = accelerator.revise(Plan.uniform(13, guidance=3.0), Scale(schedule, 3), signals(**same))
    late = accelerator.revise(Plan.uniform(13, guidance=3.0), Scale(schedule, 11), signals(**same))
    assert (early[4].stage, early[4].branch) == ("semantic", "both")
    assert (late[12].stage, late[12].branch) == ("fidelity", "cond")


def test_guidance_that_was_not_measured_is_kept():
    """A plan that guides hidden states yields no flips; that is not the same as no flips."""
    plan = Plan.uniform(13, guidance=3.0, guidance_layer=2).replace(range(13), stage="structure")
    revised = parse("stagevar").revise(plan, Scale(SCHEDULES[64, 64], 10), signals(low=0.0, middle=9.0, flips=None))
    assert {scale.branch for scale in revised} == {"both"}


def test_a_decision_is_about_the_next_scale_that_runs():
    at, seen = Scale(SCHEDULES[64, 64], 9), signals(low=0.01, middle=0.01, flips=0.0)
    plan = Plan.uniform(13, guidance=3.0).replace([10, 11], run="skip")
    revised = parse("stagevar").revise(plan, at, seen)
    assert [scale.tokens is None for scale in revised] == [True] * 12 + [False]
    assert revised[12].branch == "cond" and revised[12].stage == "fidelity"
    assert parse("stagevar").revise(revised, at, seen) == revised, "asked again, nothing more changes"
    price = parse("stagevar").revise(Plan.uniform(13, guidance=3.0), at, signals(low=0.01, middle=0.7, flips=0.0))
    assert price[10].stage == "structure", "the price of scale 10, which runs"
    assert parse("stagevar").revise(plan, at, signals(low=0.01, middle=0.7, flips=0.0))[12].stage == "fidelity"


def test_behind_the_last_scale_that_runs_nothing_is_decided():
    plan = Plan.uniform(13, guidance=3.0).replace([12], run="skip")
    assert parse("stagevar").revise(plan, Scale(SCHEDULES[64, 64], 11), signals(low=0.0)) == plan
    assert parse("stagevar").revise(Plan.uniform(1), Scale(((1, 1),), 0), signals(low=0.0)) == Plan.uniform(1)


def test_kept_positions_follow_the_picture_and_the_dial():
    schedule = SCHEDULES[64, 64]

    def keep(quality, **fields):
        plan = Plan.uniform(13).replace(range(13), stage="fidelity", branch="cond")
        tokens = parse(f"stagevar(quality={quality})").revise(plan, Scale(schedule, 11), signals(**fields))[12].tokens
        return 1.0 if tokens is None else tokens.keep

    by_dial = [keep(quality) for quality in (0.0, 0.25, 0.5, 0.75, 0.99)]
    assert by_dial == sorted(by_dial) and by_dial[0] < by_dial[-1]
    plain, textured = ((share,) * len(SUPPORT_ENERGIES) for share in (0.01, 0.6))
    assert keep(0.0, support=plain) == 1 / 16 < keep(0.5, support=textured) == 0.625


def test_the_accelerator_of_the_documentation_works():
    text = (Path(__file__).parents[2] / "docs" / "accelerators.md").read_text()
    code = text.split("```python")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": "late_single"}
    exec(code, names)
    accelerator = names["LateSingle"](share=0.7)
    plan = accelerator.plan(Plan.uniform(13), SCHEDULES[64, 64], Facts(32, 8, True))
    assert [s.branch for s in plan] == ["both"] * 11 + ["cond"] * 2
    assert str(accelerator) == "late_single(share=0.7)"
