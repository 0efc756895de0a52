"""The study on tiny random models: its curves, its stages, its files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from stagevar.cli import study as commands
from stagevar.drawing import Prepared, condition
from stagevar.engine.loop.run import run
from stagevar.errors import MissingExtraError, MissingFileError, OptionError, OutputError, PromptError, SizeError
from stagevar.families.catalogue import FAMILIES as ALL_FAMILIES
from stagevar.families.tiny import tiny
from stagevar.loading.folder import save_model
from stagevar.measure.bench.dial import QUALITIES, measure_dial
from stagevar.measure.likeness.fidelity import contour_agreement, edge_agreement, layout_agreement
from stagevar.measure.predict.explain import text_rows
from stagevar.measure.predict.flops import plan_flops
from stagevar.measure.study.curves import Curve, Study, quantile
from stagevar.measure.study.plots import PLOTS, available
from stagevar.measure.study.report import markdown, write_report
from stagevar.measure.study.spectrum import energies, held, participation, rank, spectrum
from stagevar.measure.study.stages import profile
from stagevar.measure.study.study import study
from stagevar.measure.suites.scenes import agreement, default_prompts
from stagevar.pipeline import Pipeline
from stagevar.profile import DialPoint, Rule, StageProfile
from stagevar.request import Request
from stagevar.scenes.oracle import Found

FAMILIES = ("scenes", "infinity")
STUDIED = [("scenes", None), ("infinity", None), ("infinity", (54, 18)), ("infinity", (56, 70))]
"""Families with a height and width, None for the default."""


@pytest.fixture(scope="module", params=STUDIED, ids=lambda case: f"{case[0]}-{case[1] or 'default'}")
def found(request: pytest.FixtureRequest) -> Study:
    family, size = request.param
    height, width = size or (None, None)
    options = {"guidance": 3.0, "batch_size": 2, "rank_prompts": 3, "samples": 3, "height": height, "width": width}
    return study(Pipeline(tiny(family)), default_prompts(5), **options)


# --- the rank of a stream ----------------------------------------------------


def stream(strengths: list[float], M: int = 40, C: int = 24) -> torch.Tensor:
    """Centred rows with these singular values, moved off the origin: (1, M, C)."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(M, len(strengths) + 1, generator=generator).double()
    left[:, 0] = 1
    left = torch.linalg.qr(left).Q[:, 1:]
    right = torch.linalg.qr(torch.randn(C, len(strengths), generator=generator).double()).Q
    return ((left * torch.tensor(strengths).double()) @ right.T + 3.0)[None]


@pytest.mark.parametrize(("M", "C"), [(40, 24), (24, 40)])
def test_the_energies_of_a_low_rank_stream_are_exact(M: int, C: int) -> None:
    found = energies(stream([4, 3, 2, 1], M, C))
    assert found.shape == (1, min(M, C))
    assert found[0, :4].tolist() == pytest.approx([16, 9, 4, 1])
    assert found[0, 4:].max() < 1e-9


def test_ranks_are_the_smallest_that_hold_the_energy() -> None:
    found = energies(stream([4, 3, 2, 1]))  # shares 16/30, 25/30, 29/30, 1
    assert [int(rank(found, share)) for share in (0.5, 0.83, 0.9, 0.96, 0.97, 0.99)] == [1, 2, 3, 3, 4, 4]
    assert float(participation(found)) == pytest.approx(30**2 / (16**2 + 9**2 + 4**2 + 1))
    assert float(held(found, 2)) == pytest.approx(25 / 30)


def test_equal_strengths_have_full_participation() -> None:
    figures = spectrum(stream([2.0] * 8, M=32))
    assert float(figures["participation"]) == pytest.approx(8 / 32)
    assert float(figures["rank_99"]) == pytest.approx(8 / 32)
    assert float(figures["energy_10"]) == pytest.approx(3 / 8)


@pytest.mark.parametrize("M", [1, 7])
def test_a_constant_stream_has_rank_zero(M: int) -> None:
    figures = spectrum(torch.full((2, M, 5), 0.1))
    assert figures["rank_96"].tolist() == figures["participation"].tolist() == [0, 0]
    assert figures["energy_5"].tolist() == [1, 1]


# --- likeness ----------------------------------------------------------------


@pytest.mark.parametrize("measure", [edge_agreement, contour_agreement, layout_agreement])
def test_agreement_is_one_for_equal_pictures_and_falls_with_noise(measure: object) -> None:
    assert callable(measure)
    x = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    assert measure(x, x).tolist() == pytest.approx([1, 1])
    mild, strong = measure(0.9 * x + 0.1 * noise, x), measure(0.5 * x + 0.5 * noise, x)
    assert (mild < 1).all() and (mild > strong).all()
    flat = torch.full_like(x, 0.5)
    assert measure(flat, flat).tolist() == [1, 1]
    assert measure(flat, x).abs().max() < 1e-6
    assert measure(flat[..., :1, :1], flat[..., :1, :1]).tolist() == [1, 1]


def test_readings_agree_by_objects() -> None:
    def thing(color: str, shape: str | None) -> Found:
        return Found(shape, color, 0, 0, 1, 1, 30, 1.0)

    star, ring, blob = thing("red", "star"), thing("red", "ring"), thing("blue", None)
    assert agreement([], []) == agreement([star, blob], [blob, star]) == 1
    assert agreement([], [star]) == agreement([blob], [star]) == 0
    assert agreement([star], [ring]) == 0
    assert agreement([star], [ring], shapes=False) == 1
    assert agreement([star, star], [star, blob]) == 0.5


# --- the study ---------------------------------------------------------------


def test_every_likeness_ends_at_its_value_for_equal_pictures(found: Study) -> None:
    curves = found.of("semantic") | found.of("structural") | found.of("spectral")
    for verdict in ("strict", "relaxed"):
        curves.pop(verdict, None)
    assert {"layout", "contours", "edges", "ssim", "band_0"} <= set(curves)
    for name, curve in curves.items():
        final = 100 if name == "psnr" else 1
        assert [row[-1] for row in curve.values] == pytest.approx([final] * 5), name
        if name != "agreement":
            assert any(row[0] != pytest.approx(final) for row in curve.values), name


def test_only_scenes_are_read_by_the_oracle(found: Study) -> None:
    assert ({"strict", "relaxed", "objects", "agreement"} <= set(found.curves)) == (found.family == "scenes")


def test_curves_and_figures_have_a_value_per_prompt_and_scale(found: Study) -> None:
    scales = len(found.schedule)
    assert all(len(c.values) == 5 and {len(row) for row in c.values} == {scales} for c in found.curves.values())
    assert len(found.groups) == {"scenes": 3, "infinity": 2}[found.family]
    assert found.rank_prompts == 3
    assert [len(column) for column in found.samples] == [3] * scales
    assert all(min(row) > 0 for row in found.curves["milliseconds"].values)
    for figures in found.groups:
        assert all(0 < figures[f"rank_{e}"].mean[-1] <= 1 for e in (90, 96, 99))
        assert figures["rank_90"].mean[-1] <= figures["rank_96"].mean[-1] <= figures["rank_99"].mean[-1]


def test_operations_are_those_of_the_plain_plan(found: Study) -> None:
    pipe = Pipeline(tiny(found.family))
    plan = pipe.prepare(Request("plain", height=found.size[0], width=found.size[1])).plan
    for prompt, row in zip(found.prompts, found.curves["gflop"].values, strict=True):
        flops = plan_flops(pipe.model, found.schedule, plan, text_rows(pipe.model, [prompt]))
        assert row == pytest.approx([each.total / 1e9 for each in flops])


def test_longer_texts_cost_more_where_the_text_is_attended_to() -> None:
    prompts = ["a star", "a red star and a blue ring"]
    for family, more in (("infinity", True), ("scenes", False)):
        short, long = study(Pipeline(tiny(family)), prompts, rank_prompts=1).curves["gflop"].values
        assert all((a < b) is more for a, b in zip(short, long, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_study_does_not_depend_on_its_batches(family: str) -> None:
    one, three = (study(Pipeline(tiny(family)), default_prompts(3), batch_size=n, rank_prompts=2) for n in (1, 3))
    for name in set(one.curves) - {"milliseconds"}:
        for mine, other in zip(one.curves[name].values, three.curves[name].values, strict=True):
            assert mine == pytest.approx(other, abs=1e-4), name
    assert one.groups[1]["participation"].mean == pytest.approx(three.groups[1]["participation"].mean, abs=1e-4)


def test_without_guidance_no_code_flips() -> None:
    found = study(Pipeline(tiny("infinity")), default_prompts(2), guidance=1.0, rank_prompts=1)
    assert found.curves["flips"].mean == (0.0,) * len(found.schedule)
    assert min(found.curves["gap"].mean) > 0


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_family_can_be_studied(family: str) -> None:
    pipe = Pipeline(tiny(family))
    prompts = ["1", "5", "7"] if family == "var" else default_prompts(3)
    found = study(pipe, prompts, batch_size=2, rank_prompts=2)
    assert len(found.groups) == pipe.model.groups and found.size == pipe.model.picture_size(found.schedule)
    assert all(curve.mean[-1] == pytest.approx(1) for curve in found.of("structural").values() if curve.unit == "")
    for k, branch in enumerate(pipe.model.branches(found.schedule)):
        assert (found.curves["gap"].mean[k] > 0) is (branch == "both")
    assert len(profile(found).stages()) == len(found.schedule)
    assert family in markdown(found, profile(found))


class EndsGuidanceEarly(Pipeline):
    def prepare(self, request: Request) -> Prepared:
        prepared = super().prepare(request)
        plan = prepared.plan
        return replace(prepared, plan=plan.replace(range(3, len(plan)), branch="cond"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_may_drop_the_null_branch_by_itself(family: str) -> None:
    plain, early = (
        study(kind(tiny(family)), default_prompts(3), guidance=4.0) for kind in (Pipeline, EndsGuidanceEarly)
    )
    for name in ("flips", "gap"):
        mean, whole = early.curves[name].mean, plain.curves[name].mean
        assert mean[:3] == pytest.approx(whole[:3], abs=1e-5) and set(mean[3:]) == {0}
        assert min(whole[3:]) > 0
    assert early.curves["gflop"].mean[3] == pytest.approx(plain.curves["gflop"].mean[3] / 2, rel=0.1)


def test_flips_are_those_that_accelerators_see() -> None:
    pipe, seen = Pipeline(tiny("scenes")), []
    prompts = default_prompts(1)
    found = study(pipe, prompts, seed=4, guidance=3.0, rank_prompts=1)
    request = Request(prompts[0], seed=4, guidance_scale=3.0)
    plan = pipe.prepare(request).plan

    def revise(image, plan, k, signals):  # type: ignore[no-untyped-def]
        seen.append(signals)
        return plan

    list(run(pipe.model, condition(pipe.model, [request]), found.schedule, [plan], [4], revise=revise))
    for name, attribute in (("flips", "flips"), ("low", "low"), ("confidence", "confidence")):
        assert found.curves[name].mean == pytest.approx([getattr(each, attribute) for each in seen], abs=1e-5)


def test_a_scorer_becomes_a_curve() -> None:
    def clip(pictures: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        return 1 - (pictures - references).abs().mean((1, 2, 3))

    pipe = Pipeline(tiny("infinity"))
    found = study(pipe, default_prompts(2), rank_prompts=1, scorers={"clip": clip})
    assert found.curves["clip"].kind == "semantic"
    assert found.curves["clip"].mean[-1] == 1
    assert profile(found).semantic.rule.curves == ("clip",)
    with pytest.raises(OptionError, match="'ssim'"):
        study(pipe, default_prompts(1), scorers={"ssim": clip})


@pytest.mark.parametrize("options", [{"rank_prompts": 0}, {"batch_size": 0}, {"seed": -1}, {"guidance": 1e9}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        study(Pipeline(tiny("scenes")), default_prompts(1), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompts", [[], ["a purple star"], ["star star star"]])
def test_captions_that_cannot_be_drawn_or_judged(prompts: list[str]) -> None:
    with pytest.raises(PromptError):
        study(Pipeline(tiny("scenes")), prompts)


def test_the_spread_of_a_curve() -> None:
    curve = Curve("cost", "ms", tuple((float(n), 1.0) for n in range(11)))
    assert (curve.mean, curve.low, curve.high) == ((5, 1), (1, 1), (9, 1))
    assert curve.std == pytest.approx((10**0.5, 0))
    assert not curve.binary
    assert quantile([0, 1], 0.25) == 0.25


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
    points = measure_dial(Pipeline(tiny("scenes")), default_prompts(3), qualities=(0.9, 0.0), batch_size=2)
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
    assert "operations (GFLOP)" in text and f"{found.size[0]}x{found.size[1]} pixels" in text


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"stagevar\[plot\]"):
        available()


# --- the commands ------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_model(tiny("scenes"), folder)  # type: ignore[arg-type]
    return folder


def test_study_writes_its_folder(command: Run, model: Path) -> None:
    code, out, _ = command("study", "-m", model, "--prompts", 2, "--rank-prompts", 1, "--guidance", 2, "--json")
    answer = json.loads(out)
    assert code == 0 and {Path(name).name for name in answer["files"]} == {
        path.name for path in Path("study").iterdir()
    }
    assert {"pictures.png", "study.md", "ranks.png"} < {path.name for path in Path("study").iterdir()}
    assert answer["guidance"] == [2] * 5 and answer["size"] == [12, 12]
    assert "values" not in answer["curves"]["ssim"]
    assert StageProfile.load(Path("study/profile.json")).prompts == 2
    assert "semantic" in command("study", "-m", model, "--prompts", 1, "-o", "again")[1]


def test_study_takes_the_sizes_of_a_model(command: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("study", "-m", model, "--size", "16x")[0] == SizeError.exit_code
    monkeypatch.setattr(commands, "load_pipeline", lambda *_: Pipeline(tiny("infinity")))
    code, out, _ = command("study", "--size", "18x54", "--prompts", 1, "--json")
    assert code == 0 and json.loads(out)["schedule"][-1] == [9, 27]
    assert StageProfile.load(Path("study/profile.json")).schedule[-1] == (9, 27)
    with Image.open("study/pictures.png") as sheet:
        assert sheet.width > sheet.height


def test_calibrate_writes_a_profile_of_captions_from_a_file(command: Run, model: Path) -> None:
    Path("captions.txt").write_text("a star\n\na red ring\n")
    assert command("calibrate", "-m", model, "--captions", "captions.txt", "-o", "p.json", "-q") == (0, "", "")
    assert StageProfile.load(Path("p.json")).prompts == 2
    assert len(StageProfile.load(Path("p.json")).dial) == len(QUALITIES)
    wanted = ["--structure", 0.5, "--dial-prompts", 1, "--ssim", 0.9, "-o", "p.json"]
    code, out, _ = command("calibrate", "-m", model, "--prompts", 1, *wanted, "--json")
    answer = json.loads(out)
    assert code == 0 and answer["structure"]["rule"]["reach"] == 0.5
    text = f"stagevar(quality={StageProfile.load(Path('p.json')).quality(0.9):.3f})"
    assert answer["accelerator"] == text
    assert command("calibrate", "-m", model, "--prompts", 1, *wanted, "-q")[1] == f"{text}\n"
    assert command("calibrate", "-m", model, "--ssim", 0.9, "--dial-prompts", 0)[0] == OptionError.exit_code


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--captions", "none.txt"], 4, "none.txt"),
        (["--captions", "empty.txt"], 2, "no captions"),
        (["--captions", "bytes.txt"], 2, "UTF-8"),
        (["--captions", "odd.txt"], 2, "cannot read"),
        (["--guidance", "much"], 2, "--guidance"),
        (["-o", "empty.txt/p.json"], 6, "empty.txt"),
    ],
)
def test_failures_are_one_line(command: Run, model: Path, arguments: list[str], code: int, part: str) -> None:
    Path("empty.txt").touch()
    Path("bytes.txt").write_bytes(b"\xff\xfe\xff")
    Path("odd.txt").write_text("star star star\n")
    found, _, line = command("calibrate", "-m", model, "--prompts", 1, *arguments, "-q")
    assert found == code and line.startswith("error: ") and part in line and line.count("\n") == 1
