"""Why a picture is as it is: what is said is what ran, and what decided is what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stagevar.engine.grids.grid import Scale
from stagevar.engine.plan.signals import CHANGING
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.measure.why.comparison import Comparison
from stagevar.measure.why.sheet import write_sheet
from stagevar.measure.why.why import answer
from stagevar.pipeline import Pipeline
from stagevar.registry import known, parse
from stagevar.request import Request

PROMPT = "a red circle to the left of a blue square"
Run = Callable[..., tuple[int, str, str]]


def drawn(accelerator: str, family: str = "scenes") -> Comparison:
    comparison = Comparison(Pipeline(tiny(family)), Request(PROMPT, seed=5, accelerator=accelerator))
    for _ in comparison.draw():
        pass
    return comparison


@pytest.fixture(scope="module")
def ours() -> Comparison:
    return drawn("stagevar(quality=0.0)")


def test_what_is_said_of_a_scale_is_what_ran(ours: Comparison) -> None:
    found = answer(ours)
    rows, own = found["scales"], ours.accelerated.trace
    assert [row["rows"] for row in rows] == [row["rows"] for row in own.by_scale()]
    fewer = sum(row["plain_gflop"] for row in rows) / sum(row["gflop"] for row in rows)
    assert fewer == pytest.approx(found["fewer_operations"]) and fewer > 1
    assert json.loads(json.dumps(found)) == found and found["accelerator"] == "stagevar(quality=0.0)"


def test_an_accelerator_that_is_asked_what_its_notes_say_gives_the_plan_that_ran(ours: Comparison) -> None:
    accelerator, plan = parse("stagevar(quality=0.0)"), ours.pipeline.prepare(ours.request).plan
    executed = ours.accelerated.trace.executed(0)
    assert set(ours.notes) == set(executed)
    for k in executed:
        at, note = Scale(ours.schedule, k), ours.notes[k]
        assert accelerator.reasons(plan, at, note.signals) == note.reasons
        plan = accelerator.revise(plan, at, note.signals)
    assert plan == ours.accelerated.plan


def test_scales_that_a_picture_did_not_run_have_no_notes() -> None:
    notes = drawn("drop_last(2)").notes
    assert sorted(notes) == [0, 1, 2]


def test_an_equal_picture_has_changed_in_nothing() -> None:
    found = answer(drawn("none"))
    assert found["changed"]["pixels"] == 0 and found["changed"]["psnr"] == 100 and found["fewer_operations"] == 1
    assert not any(row["revised"] or row["reasons"] for row in found["scales"])


@pytest.mark.parametrize(
    "name", [name for name, cls in known().items() if cls.online and name not in ("skipvar", "planned")]
)
def test_what_decides_per_picture_says_by_what(name: str) -> None:
    reasons = [reason for note in drawn(name, "infinity").notes.values() for reason in note.reasons]
    assert reasons and all(reason.about for reason in reasons)


def test_a_sum_has_the_reasons_of_its_parts(ours: Comparison) -> None:
    plan, at = ours.pipeline.prepare(ours.request).plan, Scale(ours.schedule, 0)
    one, both = (parse(text).reasons(plan, at, CHANGING) for text in ("stagevar", "drop_last(0)+stagevar"))
    assert one == both and len(one) == 3
    assert len(parse("stagevar").reasons(plan, at, replace(CHANGING, flips=None))) == 2


def test_the_sheet_is_a_picture(ours: Comparison, tmp_path: Path) -> None:
    for comparison in (ours, drawn("drop_last(1)")):
        write_sheet(tmp_path / "why.png", comparison, answer(comparison))
        with Image.open(tmp_path / "why.png") as sheet:
            assert min(sheet.size) > 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    save_model(tiny("scenes"), folder)
    return folder


def test_why_reads_the_record_of_a_picture(command: Run, folder: Path) -> None:
    assert command("generate", "a star", "-m", folder, "-a", "stagevar", "--seed", 2, "-o", "star.png", "-q")[0] == 0
    code, out, _ = command("why", "star.png")
    assert code == 0 and "guidance flips" in out and "the picture of the file" in out and "NOT" not in out
    assert Path("star-why.png").is_file()
    code, out, _ = command("why", "star.png", "--json", "-o", "other.png")
    found: dict[str, Any] = json.loads(out)
    assert code == 0 and found["same"] and found["prompt"] == "a star" and Path("other.png").is_file()


def test_why_needs_a_record(command: Run) -> None:
    Image.new("RGB", (4, 4)).save("plain.png")
    code, _, line = command("why", "plain.png")
    assert code == 4 and "does not say how it was made" in line and not Path("plain-why.png").exists()
