"""What follows from a study: the profile, the dial, the report and the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from stagevar.cli import study as commands
from stagevar.errors import MissingExtraError, MissingFileError, OptionError, OutputError, SizeError
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.measure.bench.dial import QUALITIES, measure_dial
from stagevar.measure.study.curves import Study
from stagevar.measure.study.plots import PLOTS, available
from stagevar.measure.study.report import markdown, write_report
from stagevar.measure.study.stages import profile
from stagevar.measure.study.study import study
from stagevar.pipeline import Pipeline
from stagevar.profile import DialPoint, Rule, StageProfile

from .study_parts import STUDIED, captions


@pytest.fixture(scope="module", params=STUDIED, ids=lambda case: f"{case[0]}-{case[1] or 'default'}")
def found(request: pytest.FixtureRequest) -> Study:
    family, size = request.param
    height, width = size or (None, None)
    options = {"guidance": 3.0, "batch_size": 2, "rank_prompts": 3, "samples": 3, "height": height, "width": width}
    return study(Pipeline(tiny(family)), captions(5), **options)


# --- the profile -------------------------------------------------------------


def test_a_stage_ends_where_its_curve_stays_up() -> None:
    curves = {"a": (0.1, 0.96, 0.2, 0.95, 1.0), "b": (0.0, 0.0, 0.5, 0.9, 1.0), "zero": (0.0,) * 5}
    assert Rule(("a",), 0.95).scale(curves) == 3
    assert Rule(("b",), 0.5).scale(curves) == 2
    assert Rule(("a", "b"), 0.99).scale(curves) == 4
    assert Rule(("zero",), 0.95).scale(curves) == 0


@pytest.mark.parametrize(("curves", "reach"), [(("a",), 0.0), (("a",), 1.1), ((), 0.5)])
def test_bad_rules(curves: tuple[str, ...], reach: float) -> None:
    with pytest.raises(OptionError):
        Rule(curves, reach)


@pytest.mark.parametrize(("semantic", "structure"), [(0.95, 0.9), (0.5, 0.3), (1.0, 0.01), (0.01, 0.01)])
def test_boundaries_never_go_back(found: Study, semantic: float, structure: float) -> None:
    settled = profile(found, semantic, structure)
    assert 0 <= settled.semantic.scale <= settled.structure.scale < len(found.schedule)
    assert settled.semantic.mean <= settled.structure.mean
    order = [("semantic", "structure", "fidelity").index(stage) for stage in settled.stages()]
    assert order == sorted(order)
    assert [k for k, place in enumerate(order) if place == 0][-1] == settled.semantic.scale


def test_stages_are_relative_to_the_final_grid(found: Study) -> None:
    settled = profile(found)
    half = replace(
        settled, semantic=replace(settled.semantic, share=0.25), structure=replace(settled.structure, share=0.5)
    )
    schedule = ((1, 1), (4, 8), (5, 10), (8, 16), (16, 32))
    assert half.stages(schedule) == ("semantic", "semantic", "structure", "structure", "fidelity")


def test_ranks_are_interpolated_between_scales(found: Study) -> None:
    settled = profile(found)
    table = settled.ranks[0.96]
    first, second = table[-2], table[-1]
    assert settled.rank_ratios(0.96, first.share) == pytest.approx(first.mean)
    assert settled.rank_ratios(0.96, 2.0) == pytest.approx(second.mean)
    assert settled.rank_ratios(0.96, 0.0) == pytest.approx(table[0].mean)
    middle = [(low + high) / 2 for low, high in zip(first.mean, second.mean, strict=True)]
    assert settled.rank_ratios(0.96, (first.share + second.share) / 2) == pytest.approx(middle)
    with pytest.raises(OptionError, match=r"0\.96"):
        settled.rank_ratios(0.5, 1.0)


def test_a_profile_survives_the_disk(found: Study, tmp_path: Path) -> None:
    settled = profile(found)
    settled.save(tmp_path / "deep" / "profile.json")
    assert StageProfile.load(tmp_path / "deep" / "profile.json") == settled
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "stagevar profile 0"}', '{"format": "stagevar profile 1"}']
)
def test_a_file_that_is_no_profile(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(OptionError, match=r"p\.json"):
        StageProfile.load(tmp_path / "p.json")


def test_a_profile_that_is_not_there_or_cannot_be_written(found: Study, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        StageProfile.load(tmp_path / "none.json")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        profile(found).save(tmp_path / "file" / "p.json")


# --- the dial ----------------------------------------------------------------


def test_the_dial_is_measured_from_fastest_to_best() -> None:
    points = measure_dial(Pipeline(tiny("scenes")), captions(3), qualities=(0.9, 0.0), batch_size=2)
    assert [point.quality for point in points] == [0.0, 0.9]
    assert points[0].flop_ratio > points[1].flop_ratio >= 1
    assert points[0].ssim < 1 and points[0].ssim <= points[1].ssim and points[0].low <= points[0].ssim


def test_a_wanted_likeness_is_read_off_the_dial(found: Study) -> None:
    settled = profile(found)
    with pytest.raises(OptionError, match="no dial"):
        settled.quality(0.9)
    points = [DialPoint(quality, ssim, ssim, 2.0) for quality, ssim in ((0.0, 0.8), (0.5, 0.9), (0.75, 0.95))]
    settled = replace(settled, dial=tuple(points))
    asked = [settled.quality(ssim) for ssim in (0.7, 0.8, 0.85, 0.95, 0.99)]
    assert asked == pytest.approx([0, 0, 0.25, 0.75, 1])
    with pytest.raises(OptionError, match="SSIM"):
        settled.quality(1.5)


# --- the report --------------------------------------------------------------


def test_a_report_is_complete(found: Study, tmp_path: Path) -> None:
    files = write_report(found, profile(found), tmp_path)
    names = {"study.json", "study.md", "profile.json", *(f"{name}.png" for name in PLOTS)}
    assert {path.name for path in files} == {path.name for path in tmp_path.iterdir()} == names
    data = json.loads((tmp_path / "study.json").read_text())
    assert data["curves"]["ssim"]["mean"][-1] == 1
    assert data["prompts"] == list(found.prompts)
    assert data["size"] == [2 * side for side in found.schedule[-1]]
    assert data["curves"]["gflop"]["kind"] == "cost"
    assert StageProfile.load(tmp_path / "profile.json").schedule == found.schedule
    for name in PLOTS:
        with Image.open(tmp_path / f"{name}.png") as picture:
            picture.load()
    text = markdown(found, profile(found))
    assert all(f"| {grid} |" in text for grid in found.grids)
    assert "operations (GFLOP)" in text and f"{found.size[1]}x{found.size[0]} pixels" in text


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"stagevar\[plot\]"):
        available()


# --- the commands ------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_model(tiny("scenes"), folder)  # type: ignore[arg-type]
    return folder


Run = Callable[..., tuple[int, str, str]]


def test_study_writes_its_folder(command: Run, model: Path) -> None:
    code, out, _ = command("study", "-m", model, "--captions", 2, "--rank-prompts", 1, "--guidance", 2, "--json")
    answer = json.loads(out)
    assert code == 0 and {Path(name).name for name in answer["files"]} == {
        path.name for path in Path("study").iterdir()
    }
    assert {"pictures.png", "study.md", "ranks.png"} < {path.name for path in Path("study").iterdir()}
    assert answer["guidance"] == [2] * 5 and answer["size"] == [12, 12]
    assert "values" not in answer["curves"]["ssim"]
    assert StageProfile.load(Path("study/profile.json")).prompts == 2
    assert "semantic" in command("study", "-m", model, "--captions", 1, "-o", "again")[1]


def test_study_takes_the_sizes_of_a_model(command: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("study", "-m", model, "--size", "16x")[0] == SizeError.exit_code
    monkeypatch.setattr(commands.Place, "load", lambda _: Pipeline(tiny("infinity")))
    code, out, _ = command("study", "--size", "54x18", "--captions", 1, "--json")
    assert code == 0 and json.loads(out)["schedule"][-1] == [9, 27]
    assert StageProfile.load(Path("study/profile.json")).schedule[-1] == (9, 27)
    with Image.open("study/pictures.png") as sheet:
        assert sheet.width > sheet.height


def test_calibrate_writes_a_profile_of_captions_from_a_file(command: Run, model: Path) -> None:
    Path("captions.txt").write_text("a star\n\na red ring\n")
    assert command("calibrate", "-m", model, "--prompts", "captions.txt", "-o", "p.json", "-q") == (0, "", "")
    assert StageProfile.load(Path("p.json")).prompts == 2
    assert len(StageProfile.load(Path("p.json")).dial) == len(QUALITIES)
    wanted = ["--structure", 0.5, "--dial-prompts", 1, "--ssim", 0.9, "-o", "p.json"]
    code, out, _ = command("calibrate", "-m", model, "--captions", 1, *wanted, "--json")
    answer = json.loads(out)
    assert code == 0 and answer["structure"]["rule"]["reach"] == 0.5
    text = f"stagevar(quality={StageProfile.load(Path('p.json')).quality(0.9):.3f})"
    assert answer["accelerator"] == text
    assert command("calibrate", "-m", model, "--captions", 1, *wanted, "-q")[1] == f"{text}\n"
    assert command("calibrate", "-m", model, "--ssim", 0.9, "--dial-prompts", 0)[0] == OptionError.exit_code


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--prompts", "none.txt"], 4, "none.txt"),
        (["--prompts", "empty.txt"], 2, "holds no prompt"),
        (["--prompts", "bytes.txt"], 2, "UTF-8"),
        (["--prompts", "odd.txt"], 2, "cannot read"),
        (["--guidance", "much"], 2, "--guidance"),
        (["-o", "empty.txt/p.json"], 6, "empty.txt"),
    ],
)
def test_failures_are_one_line(command: Run, model: Path, arguments: list[str], code: int, part: str) -> None:
    Path("empty.txt").touch()
    Path("bytes.txt").write_bytes(b"\xff\xfe\xff")
    Path("odd.txt").write_text("star star star\n")
    found, _, line = command("calibrate", "-m", model, "--captions", 1, *arguments, "-q")
    assert found == code and line.startswith("error: ") and part in line and line.count("\n") == 1
