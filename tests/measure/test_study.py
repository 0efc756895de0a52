"""The study of a model: ranks, likeness, curves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stagevar.drawing import condition
from stagevar.engine.loop.run import run
from stagevar.errors import OptionError, PromptError
from stagevar.families.catalogue import FAMILIES as ALL_FAMILIES
from stagevar.families.tiny import tiny
from stagevar.measure.likeness.fidelity import contour_agreement, edge_agreement, layout_agreement
from stagevar.measure.predict.explain import text_rows
from stagevar.measure.predict.flops import plan_flops
from stagevar.measure.study.curves import Curve, Study, quantile
from stagevar.measure.study.report import markdown
from stagevar.measure.study.spectrum import energies, held, participation, rank, spectrum
from stagevar.measure.study.stages import profile
from stagevar.measure.study.study import study
from stagevar.measure.suites.scenes import agreement
from stagevar.pipeline import Pipeline
from stagevar.prepared import Prepared
from stagevar.request import Request
from stagevar.scenes.oracle import Found

from .study_parts import STUDIED, captions

FAMILIES = ("scenes", "infinity")


@pytest.fixture(scope="module", params=STUDIED, ids=lambda case: f"{case[0]}-{case[1] or 'default'}")
def found(request: pytest.FixtureRequest) -> Study:
    family, size = request.param
    height, width = size or (None, None)
    options = {"guidance": 3.0, "batch_size": 2, "rank_prompts": 3, "samples": 3, "height": height, "width": width}
    return study(Pipeline(tiny(family)), captions(5), **options)


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
    one, three = (study(Pipeline(tiny(family)), captions(3), batch_size=n, rank_prompts=2) for n in (1, 3))
    for name in set(one.curves) - {"milliseconds"}:
        for mine, other in zip(one.curves[name].values, three.curves[name].values, strict=True):
            assert mine == pytest.approx(other, abs=1e-4), name
    assert one.groups[1]["participation"].mean == pytest.approx(three.groups[1]["participation"].mean, abs=1e-4)


def test_without_guidance_no_code_flips() -> None:
    found = study(Pipeline(tiny("infinity")), captions(2), guidance=1.0, rank_prompts=1)
    assert found.curves["flips"].mean == (0.0,) * len(found.schedule)
    assert min(found.curves["gap"].mean) > 0


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_family_can_be_studied(family: str) -> None:
    pipe = Pipeline(tiny(family))
    prompts = ["1", "5", "7"] if family == "var" else captions(3)
    found = study(pipe, prompts, batch_size=2, rank_prompts=2)
    assert len(found.groups) == pipe.model.groups and found.size == pipe.model.picture_size(found.schedule)
    assert all(curve.mean[-1] == pytest.approx(1) for curve in found.of("structural").values() if curve.unit == "")
    for k, branch in enumerate(pipe.model.branches(found.schedule)):
        assert (found.curves["gap"].mean[k] > 0) is (branch == "both")
    assert len(profile(found).stages()) == len(found.schedule)
    assert family in markdown(found, profile(found))
    assert ", 48x32 pixels; " in markdown(replace(found, size=(32, 48)), profile(found))


class EndsGuidanceEarly(Pipeline):
    def prepare(self, request: Request) -> Prepared:
        prepared = super().prepare(request)
        plan = prepared.plan
        return replace(prepared, plan=plan.replace(range(3, len(plan)), branch="cond"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_may_drop_the_null_branch_by_itself(family: str) -> None:
    plain, early = (study(kind(tiny(family)), captions(3), guidance=4.0) for kind in (Pipeline, EndsGuidanceEarly))
    for name in ("flips", "gap"):
        mean, whole = early.curves[name].mean, plain.curves[name].mean
        assert mean[:3] == pytest.approx(whole[:3], abs=1e-5) and set(mean[3:]) == {0}
        assert min(whole[3:]) > 0
    assert early.curves["gflop"].mean[3] == pytest.approx(plain.curves["gflop"].mean[3] / 2, rel=0.1)


def test_flips_are_those_that_accelerators_see() -> None:
    pipe, seen = Pipeline(tiny("scenes")), []
    prompts = captions(1)
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
    found = study(pipe, captions(2), rank_prompts=1, scorers={"clip": clip})
    assert found.curves["clip"].kind == "semantic"
    assert found.curves["clip"].mean[-1] == 1
    assert profile(found).semantic.rule.curves == ("clip",)
    with pytest.raises(OptionError, match="'ssim'"):
        study(pipe, captions(1), scorers={"ssim": clip})


@pytest.mark.parametrize("options", [{"rank_prompts": 0}, {"batch_size": 0}, {"seed": -1}, {"guidance": 1e9}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        study(Pipeline(tiny("scenes")), captions(1), **options)  # type: ignore[arg-type]


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
