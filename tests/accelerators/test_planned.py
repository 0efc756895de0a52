"""Found plans: applied by relative size, chosen by the SSIM that is wanted, and refused where the file is bad."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stagevar.accelerators.planned import Planned, numbers
from stagevar.engine.grids.grid import Scale
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.signals import CHANGING, SETTLED
from stagevar.errors import MissingFileError, OptionError
from stagevar.families.tiny import tiny
from stagevar.measure.predict.explain import explain
from stagevar.pipeline import Pipeline
from stagevar.plans import Chooser, FoundPlan, FoundPlans, Late, LateScale, applied
from stagevar.prepared import facts
from stagevar.registry import parse, parse_foreign
from stagevar.request import Request

SCENES = Pipeline(tiny("scenes"))
SCHEDULE = SCENES.prepare(Request("a star")).schedule
PLAIN = Plan.uniform(len(SCHEDULE))
CLOSE: Late = (LateScale(0.5, 12, forget=True), LateScale(1.0, 8, single=True, forget=True))
FAST: Late = (LateScale(0.5, 8), LateScale(1.0, 0))
COUNT = len(numbers(CHANGING))
CHOOSER = Chooser(
    share=1 / 3,
    center=(0.0,) * COUNT,
    spread=(1.0,) * COUNT,
    weights=((0.96, *(0.0,) * COUNT), (0.8, 0.0, 0.3, *(0.0,) * (COUNT - 2))),
    margins=(0.01, 0.02),
)
"""The fast plan's SSIM grows with the confidence."""


def found(**changes: object) -> FoundPlans:
    plans = FoundPlan(CLOSE, 2.0, 0.95, 0.01), FoundPlan(FAST, 4.0, 0.85, 0.01)
    return replace(FoundPlans("scenes-tiny", {}, SCHEDULE, "rows", 4, 4, plans, CHOOSER), **changes)


@pytest.fixture
def file(tmp_path: Path) -> str:
    found().save(tmp_path / "plans.json")
    return str(tmp_path / "plans.json")


def test_scales_take_what_is_nearest_to_them_in_size() -> None:
    plan = applied(CLOSE, PLAIN, SCHEDULE)
    shares = [Scale(SCHEDULE, k).share for k in range(len(SCHEDULE))]
    for k, share in enumerate(shares):
        own = None if share < 0.5 - 1e-6 or k == 0 else CLOSE[share > 0.75]
        assert plan[k].tokens == (None if own is None else Select(own.rows / 16, restore_by="zero_code"))
        assert plan[k].cache == ("all" if own is None else "none")
    assert plan[len(plan) - 1].branch == "cond" and plan[len(plan) - 2].branch == "cond"


def test_a_plan_means_the_same_on_another_schedule() -> None:
    square = tuple((side, side) for side in (1, 2, 4, 8, 11, 16))
    plan = applied(FAST, Plan.uniform(6), square)
    assert [scale.run for scale in plan] == ["full"] * 5 + ["skip"]
    assert [scale.tokens is None for scale in plan] == [True] * 3 + [False, False, True]


def test_blocks_that_are_left_out_are_not_run() -> None:
    late = (LateScale(1.0, left_out=((0.0, 1 / 3),)),)
    request = replace(Request("a star", seed=1), plan=applied(late, PLAIN, SCHEDULE))
    *_, event = SCENES.events([request], output_type="latent")
    *_, usual = SCENES.events([Request("a star", seed=1, plan=PLAIN)], output_type="latent")
    assert event.result is not None and usual.result is not None
    own, plain = (each.result.trace.records[-1].rows for each in (event, usual) if each.result)
    assert SCENES.model.depth == 3 and own == 2 * plain / 3


@pytest.mark.parametrize(
    ("target", "late"), [(0.0, FAST), (0.85, FAST), (0.86, CLOSE), (0.95, CLOSE), (0.96, ()), (1.0, ())]
)
def test_the_fastest_plan_that_reaches_the_target_is_drawn(file: str, target: float, late: Late) -> None:
    plan = Planned(file, target).plan(PLAIN, SCHEDULE, facts(SCENES.model))
    assert plan == (applied(late, PLAIN, SCHEDULE) if late else PLAIN)


def test_plans_of_another_model_are_refused(tmp_path: Path) -> None:
    found(model="scenes").save(tmp_path / "plans.json")
    with pytest.raises(OptionError, match=r"for model 'scenes', not for 'scenes-tiny'.*search --model scenes-tiny"):
        SCENES.prepare(Request("a star", accelerator=f"planned(file={str(tmp_path / 'plans.json')!r}, target=0.0)"))


def test_it_is_said_why_the_plain_run_is_taken(file: str) -> None:
    accelerator = Planned(file, 0.96)
    reasons = accelerator.reasons(PLAIN, Scale(SCHEDULE, 0), CHANGING)
    assert [(reason.value, reason.bound) for reason in reasons] == [(0.95, 0.96), (0.85, 0.96)]
    note = explain(SCENES.model, accelerator)["note"]
    assert "takes the plain run here: SSIM by operations / 2.00 is 0.950, held against 0.96" in note
    assert "plain run here" not in explain(SCENES.model, Planned(file, 0.9))["note"]


def test_a_picture_chooses_behind_the_last_scale_before_the_plans_part(file: str) -> None:
    accelerator = Planned(file, 0.9, each=True)
    assert accelerator.plan(PLAIN, SCHEDULE, facts(SCENES.model)) == PLAIN
    decides = max(k for k in range(len(SCHEDULE)) if Scale(SCHEDULE, k).share < 0.5 - 1e-6)
    for k in range(len(SCHEDULE) - 1):
        answers = [accelerator.revise(PLAIN, Scale(SCHEDULE, k), signals) for signals in (CHANGING, SETTLED)]
        wanted = [applied(late, PLAIN, SCHEDULE) for late in (CLOSE, FAST)] if k == decides else [PLAIN, PLAIN]
        assert answers == wanted
    reasons = accelerator.reasons(PLAIN, Scale(SCHEDULE, decides), SETTLED)
    assert [reason.value for reason in reasons] == pytest.approx([0.95, 1.08]) and reasons[0].bound == 0.9


def test_a_choice_needs_a_file_that_has_one(tmp_path: Path) -> None:
    found(chooser=None).save(tmp_path / "one.json")
    with pytest.raises(OptionError, match="no choice"):
        SCENES.prepare(Request("a star", accelerator=f"planned(file={str(tmp_path / 'one.json')!r}, each=True)"))


def test_files_hold_what_was_saved(file: str) -> None:
    assert FoundPlans.load(Path(file)) == found()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "stagevar plans 0"},
        {"plans": []},
        {"plans": [{"late": []}]},
        {"chooser": {**asdict(CHOOSER), "margins": [0.1]}},
        {"chooser": {**asdict(CHOOSER), "spread": [0.0] * COUNT}},
        {"schedule": 3},
        {"schedule": []},
        {"plans": [{**asdict(found().plans[0]), "ssim": math.nan}]},
        {"plans": [{**asdict(found().plans[0]), "late": [asdict(LateScale(1.0)) | {"left_out": [[5, 9]]}]}]},
        {"plans": [{**asdict(found().plans[0]), "late": [asdict(LateScale(1.0)) | {"left_out": [[0, math.nan]]}]}]},
        {"chooser": {**asdict(CHOOSER), "margins": [0.1, math.nan]}},
        {"model": None},
        {"captions": 1.5},
        {"schedule": [[1, 1], [2, -2]]},
        {"note": "of another program"},
        {"plans": [{**asdict(found().plans[0]), "late": [asdict(LateScale(1.0)) | {"single": "false"}]}]},
        {"plans": [{**asdict(found().plans[0]), "late": [asdict(LateScale(1.0)) | {"rows": 7.9}]}]},
        {"plans": [{**asdict(found().plans[0]), "fewer": math.inf}]},
    ],
    ids=str,
)
def test_a_damaged_file_is_named(file: str, change: dict[str, object]) -> None:
    Path(file).write_text(json.dumps(json.loads(Path(file).read_text()) | change))
    with pytest.raises(OptionError, match=r"plans\.json"):
        FoundPlans.load(Path(file))


def test_no_file_no_text_and_no_share_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        FoundPlans.load(tmp_path / "nowhere.json")
    (tmp_path / "text.json").write_text("[")
    with pytest.raises(OptionError, match="no file of plans"):
        FoundPlans.load(tmp_path / "text.json")
    for settings in ({"share": 0.0}, {"share": 1.0, "rows": 17}):
        with pytest.raises(OptionError, match="late scale"):
            LateScale(**settings)  # type: ignore[arg-type]


def test_a_server_takes_the_shipped_plans_and_no_file(file: str) -> None:
    assert parse_foreign("planned(target=0.9)") == Planned(target=0.9)
    with pytest.raises(OptionError, match="file names a file"):
        parse_foreign(f"planned(file={file!r})")
    assert str(parse(f"planned(file={file!r}, target=0.8)")) == f"planned(file={file!r}, target=0.8)"


def test_pictures_of_one_batch_take_their_own_plans(file: str) -> None:
    pipe, texts = SCENES, ("a star", "a red ring", "two yellow rings", "a star above a cross")
    requests = [Request(text, seed=i, accelerator=Planned(file, 0.9, each=True)) for i, text in enumerate(texts)]
    *_, event = pipe.events(requests, output_type="latent")
    assert set(event.plans) <= {applied(late, pipe.prepare(Request("a")).plan, SCHEDULE) for late in (CLOSE, FAST)} | {
        pipe.prepare(Request("a")).plan
    }
