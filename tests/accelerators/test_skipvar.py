"""SkipVAR: the published boundaries, what is decided per picture, fits and what they refuse, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stagevar
from stagevar.accelerators.base import Facts
from stagevar.accelerators.skipvar import TARGETS, Judged, SkipVAR, classifier
from stagevar.calling import expand
from stagevar.cli.options import Place
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import CHANGING
from stagevar.errors import MissingFileError, OptionError
from stagevar.families.catalogue import FAMILIES, bare
from stagevar.families.infinity.grids import SCHEDULES
from stagevar.families.tiny import tiny
from stagevar.fit import Fit, Fittable
from stagevar.measure.check.check import check
from stagevar.measure.study.fitting import fit, looked
from stagevar.pipeline import Pipeline
from stagevar.registry import parse, parse_foreign
from stagevar.request import Request

SQUARE = SCHEDULES[64, 64]
FACTS = Facts(32, 8, True, model="published")
PROMPTS = ("a red circle", "two yellow rings", "a star above a cross")

SKIP = ".115321 .489232 .057648 .075618"
PUBLISHED = {
    "0.84": {
        "skip": f"{SKIP}; 0 1.92427 1.72384 -.89097; 1 .96007 .29711 .73892; 2 -.05941 -.5505 .80683;"
        "3 -2.82493 -1.47045 -.65478",
        "single": ".179379 .573613 .062733 .053962; 1 1.0163 .99102 -2.84802; 2 .31732 -.00294 .45575;"
        "3 -1.33362 -.98808 2.39227",
    },
    "0.88": {
        "skip": f"{SKIP}; 0 2.2967 1.67884 1.61221; 1 1.34762 .18921 1.54325; 2 -.34028 -.56233 .18634;"
        "3 -3.30403 -1.30572 -3.3418",
        "single": ".151241 .542384 .05795 .05783; 0 1.37475 .85685 -6.02746; 1 .82336 1.01998 -.75973;"
        "2 -.12186 -.50258 3.03549; 3 -2.07625 -1.37425 3.75169",
    },
}
"""Of each target both classifiers: two means and deviations, then per class its count, two weights and a constant."""


def raw(text: str) -> list[list[float]]:
    """A published classifier for the numbers themselves."""
    (mean, other, scale, wide), *rows = ([float(each) for each in part.split()] for part in text.split(";"))
    return [[int(n), a / scale, b / wide, c - a * mean / scale - b * other / wide] for n, a, b, c in rows]


def made(schedule: Schedule, model: str, numbers: dict[str, Any]) -> Fit:
    return Fit("skipvar", model, {"stagevar": stagevar.__version__}, schedule, (3.0,) * len(schedule), 9, 0, numbers)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    tables = {target: {name: raw(text) for name, text in both.items()} for target, both in PUBLISHED.items()}
    made(SQUARE, "published", tables).save(tmp_path / "fit.json")
    return tmp_path / "fit.json"


def decided(accelerator: SkipVAR, diff: float, ratio: float) -> tuple[int, int]:
    """Scales that are skipped, and that run one branch."""
    plan = accelerator.plan(Plan.uniform(13, guidance=3.0), SQUARE, FACTS)
    assert [k for k, scale in enumerate(plan) if scale.watch] == [9]
    signals = replace(CHANGING, watched={plan[9].watch[-1]: (diff, ratio)})
    found = accelerator.revise(plan, Scale(SQUARE, 9), signals)
    assert all(scale.run == "skip" for scale in found.scales[len(found.executed) :])
    return 13 - len(found.executed), sum(scale.branch == "cond" for scale in found)


def test_boundaries_are_the_published_ones(published: Path) -> None:
    accelerator = SkipVAR(0.84, str(published))
    course = [decided(accelerator, diff / 1000, 0.49) for diff in range(400)]
    changes = [k for k in range(1, 400) if course[k] != course[k - 1]]
    assert changes == [85, 119, 212, 311]
    assert [course[k] for k in (0, *changes)] == [(3, 0), (2, 0), (1, 0), (0, 3), (0, 2)]
    busy = [decided(SkipVAR(0.88, str(published)), diff / 1000, 0.57) for diff in (31, 33, 200, 345)]
    assert busy[0] == (3, 0) and [single for _, single in busy[2:]] == [2, 1]


def test_plans_without_the_scale_that_decides_are_refused(published: Path) -> None:
    plain = Plan.uniform(13, guidance=3.0)
    accelerator = SkipVAR(fit=str(published))
    with pytest.raises(OptionError, match="scale 9, which decides"):
        accelerator.plan(plain.replace([9], run="skip"), SQUARE, FACTS)
    with pytest.raises(OptionError, match="scale 9 is watched but its pass goes on"):
        accelerator.plan(plain.replace([10], group=True), SQUARE, FACTS)
    with pytest.raises(OptionError, match="half the final side"):
        SkipVAR().plan(Plan.uniform(2), ((3, 3), (4, 4)), FACTS)
    assert SkipVAR(1.0).plan(plain, SQUARE, FACTS) is plain


# --- fitting ----------------------------------------------------------------------------------------------------------


def test_a_classifier_is_where_its_loss_has_no_slope() -> None:
    """The twin is the gradient of the penalised loss, in numpy and for standardised numbers."""
    seen = torch.rand(40, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.3, 0.05])
    label = (seen[:, 0] * 9 + seen[:, 1] * 20).round().clamp(max=3).long()
    rows = np.array(classifier(seen, label))
    assert rows[:, 0].tolist() == label.unique().tolist()
    x = seen.double().numpy()
    mean, scale = x.mean(0), x.std(0)
    weight = rows[:, 1:3] * scale
    z = np.exp(x @ rows[:, 1:3].T + rows[:, 3])
    error = z / z.sum(1, keepdims=True) - (label.numpy()[:, None] == rows[:, 0])
    assert np.abs(error.T @ ((x - mean) / scale) + weight).max() < 5e-3
    assert np.abs(error.sum(0)).max() < 5e-3


def test_a_label_is_the_largest_count_that_reaches_the_target() -> None:
    seen = torch.tensor([[0.1, 0.2], [0.2, 0.3], [0.9, 0.4], [0.8, 0.5]]).repeat(20, 1)
    alike = torch.tensor([[0.95, 0.9, 0.3, 0.1], [0.9, 0.2, 0.1, 0.1], [0.99, 0.99, 0.9, 0.5], [0.9, 0.9, 0.9, 0.2]])
    numbers = SkipVAR().fitted(seen, alike.repeat(1, 20))
    assert list(numbers) == [f"{target:g}" for target in TARGETS]
    skip, single = ([row[0] for row in numbers["0.84"][name]] for name in ("skip", "single"))
    assert skip == [0, 1, 2] and single == [0, 2]
    judged = Judged(
        skip=tuple(map(tuple, numbers["0.84"]["skip"])), single=tuple(map(tuple, numbers["0.84"]["single"]))
    )
    assert [judged.counts((a, b)) for a, b in seen[:4].tolist()] == [(2, 0), (1, 0), (0, 2), (0, 0)]
    assert [row[0] for row in SkipVAR().fitted(seen, torch.ones(4, 80))["0.84"]["single"]] == [0]


def test_a_fit_sees_the_numbers_that_the_loop_measures() -> None:
    pipe, found = Pipeline(tiny("infinity")), list[tuple[float, ...]]()

    class Watching(SkipVAR):
        def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
            k, watch = self.looks(schedule)
            return plan.replace([k], watch=(watch,))

        def revise(self, plan: Plan, at: Scale, signals: Any) -> Plan:
            found.extend(signals.watched.values())
            return plan

    requests = expand(list(PROMPTS), seed=range(3))
    for _ in pipe.events([replace(request, accelerator=Watching()) for request in requests], output_type="latent"):
        pass
    k, watch = SkipVAR().looks(pipe.model.schedule())
    numbers, pictures = looked(pipe, requests, Scale(pipe.model.schedule(), k), watch)
    torch.testing.assert_close(numbers, torch.tensor(found[-3:]))
    assert len(pictures) == 3


# --- fits and what they refuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": "another"}, "model 'another', not for 'published'"),
        ({"accelerator": "planned"}, "accelerator 'planned', not for 'skipvar'"),
        ({"versions": {"stagevar": "0.0.1"}}, f"stagevar '0.0.1', not for '{stagevar.__version__}'"),
        ({"versions": {}}, "stagevar 'None'"),
        ({"schedule": SQUARE[:10]}, "grids"),
        ({"numbers": {"0.5": {}}}, "a target of 0.5 or 1, not 0.84"),
        ({"numbers": {"0.84": {"skip": [[0, 1.0, 2.0]]}}}, "damaged fit"),
        ({"numbers": {"0.84": {"skip": [[9, 1.0, 2.0, 0.0]]}}}, "classes of 0 to 3"),
        ({"numbers": {"0.84": {"skip": [[0, float("nan"), 2.0, 0.0]]}}}, "finite weights"),
        ({"numbers": {"0.84": 3}}, "damaged fit"),
    ],
)
def test_a_fit_for_anything_else_is_refused_by_name(published: Path, change: dict[str, Any], word: str) -> None:
    replace(Fit.load(published), **change).save(published)
    with pytest.raises(OptionError, match=word):
        SkipVAR(fit=str(published)).plan(Plan.uniform(13), SQUARE, FACTS)


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "no fit of this version"), ("[]", "no fit"), ('{"format": "stagevar fit 0"}', "stagevar fit 0")],
)
def test_what_is_no_fit_is_said(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "fit.json"
    with pytest.raises(MissingFileError, match="cannot read the fit"):
        Fit.load(path)
    path.write_text(text)
    with pytest.raises(OptionError, match=word):
        Fit.load(path)
    path.write_text('{"format": "stagevar fit 2", "model": 1}')
    with pytest.raises(OptionError, match="damaged fit"):
        Fit.load(path)


def test_without_a_fit_the_command_that_makes_one_is_said_before_drawing() -> None:
    pipe = Pipeline(tiny("var"))
    with pytest.raises(OptionError, match=r"stagevar calibrate --accelerator skipvar --model var-tiny -o skipvar.json"):
        pipe.prepare(Request("volcano", accelerator="skipvar"))
    with pytest.raises(OptionError, match="fit names a file"):
        parse_foreign("skipvar(fit='fit.json')")
    with pytest.raises(OptionError, match="target must be an SSIM"):
        parse("skipvar(target=1.5)")


def test_the_shipped_fit_is_for_the_shipped_model() -> None:
    """No weights: it is read, it holds for the model and the version, and its classifiers decide differently."""
    model = bare("scenes")
    pipe = Pipeline(model)
    for target in TARGETS:
        plan = pipe.prepare(Request("a star", accelerator=f"skipvar(target={target})")).plan
        (judged,) = (watch for scale in plan for watch in scale.watch)
        assert isinstance(judged, Judged) and judged.skip and judged.single
    few, many = (
        pipe.prepare(Request("a star", accelerator=f"skipvar(target={target})")).plan[7].watch[0]
        for target in (0.98, 0.84)
    )
    assert isinstance(few, Judged) and isinstance(many, Judged)
    assert many.counts((0.05, 0.2))[0] > few.counts((0.05, 0.2))[0] == 0


# --- per picture, in all families -------------------------------------------------------------------------------------


def between(pipe: Pipeline, requests: list[Request]) -> dict[str, Any]:
    """Classifiers that part three pictures: the plainest skips a scale, the next runs one branch, the last all."""
    schedule = pipe.prepare(requests[0]).schedule
    k, watch = SkipVAR().looks(schedule)
    numbers, _ = looked(pipe, requests, Scale(schedule, k), watch)
    low, middle, high = sorted(numbers[:, 0].tolist())
    borders = {"skip": (low + middle) / 2, "single": (middle + high) / 2}
    return {"0.84": {name: [[1, -1.0, 0.0, at], [0, 1.0, 0.0, -at]] for name, at in borders.items()}}


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_a_batch_decide_alone(family: str, tmp_path: Path) -> None:
    pipe = Pipeline(tiny(family))
    prompts = pipe.model.samples[:3]
    for size in (pipe.model.sizes()[0], max(pipe.model.sizes()[:3], key=lambda size: abs(size[0] - size[1]))):
        requests = expand(list(prompts), seed=range(3), height=size[0], width=size[1])
        schedule, path = pipe.prepare(requests[0]).schedule, tmp_path / "fit.json"
        made(schedule, pipe.model.name, between(pipe, requests)).save(path)
        requests = [replace(request, accelerator=SkipVAR(fit=str(path))) for request in requests]
        *_, last = pipe.events(requests, output_type="latent")
        assert last.result is not None
        assert sorted(len(plan.executed) for plan in last.plans) == [len(schedule) - 1, len(schedule), len(schedule)]
        guided = pipe.prepare(replace(requests[0], accelerator="none")).plan[-1].branch == "both"
        assert len(set(last.plans)) == (3 if guided else 2)
        for i, request in enumerate(requests):
            *_, alone = pipe.events([request], output_type="latent")
            assert alone.result is not None and alone.plans[0] == last.plans[i]
            atol = 2e-2 if family == "hart" else 2e-4
            torch.testing.assert_close(last.result.images[i], alone.result.images[0], atol=atol, rtol=1e-3)


@pytest.mark.slow
def test_the_contract_holds_in_all_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """With classifiers that take the numbers of small networks apart, since these have no fit."""
    judged = Judged(skip=((1, -1.0, 0.0, 0.1), (0, 1.0, 0.0, -0.1)), single=((1, 0.0, 0.0, 0.0),))
    monkeypatch.setattr(SkipVAR, "_judged", lambda self, schedule, facts: judged)
    report = check(SkipVAR())
    assert report.ok and {cell.state for cell in report.cells} == {"holds"}, report.faults


# --- the command ------------------------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    pipe = Pipeline(tiny("infinity"))
    monkeypatch.setattr(Place, "load", lambda _: pipe)
    return pipe


def test_the_command_writes_a_fit_that_draws(command: Run, small: Pipeline) -> None:
    Path("captions.txt").write_text("\n".join(PROMPTS * 3))
    wanted = ["--accelerator", "skipvar", "--prompts", "captions.txt"]
    assert command("calibrate", *wanted, "-q") == (0, "skipvar(fit='skipvar.json')\n", "")
    found = Fit.load(Path("skipvar.json"))
    assert (found.model, found.prompts, found.schedule) == ("infinity-tiny", 9, small.model.schedule())
    assert small("a star", seed=1, accelerator="skipvar(fit='skipvar.json')").images
    code, out, _ = command("calibrate", *wanted, "--size", "54x18", "-o", "wide.json", "--json")
    assert code == 0 and json.loads(out)["use"] == "skipvar(fit='wide.json')"
    assert small("a star", seed=1, height=18, width=54, accelerator="skipvar(fit='wide.json')").images
    with pytest.raises(OptionError, match="the fit is for grids"):
        small("a star", seed=1, accelerator="skipvar(fit='wide.json')")
    assert not Path("profile.json").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-a", "drop_last"], "no numbers to fit; give --accelerator one of skipvar"),
        (["-a", "skipvar", "--ssim", 0.9], "leave it out with --accelerator"),
        (["-a", "skipper"], "no accelerator 'skipper'"),
        (["-a", "skipvar", "-o", "."], "cannot write"),
        (["-a", "stagevar", "--captions", 1], "a fit needs 8 pictures or more"),
    ],
)
def test_what_cannot_be_fitted_is_said_before_the_model_is_loaded(
    command: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[object], part: str
) -> None:
    monkeypatch.setattr(Place, "load", lambda _: pytest.fail("loaded"))
    code, out, line = command("calibrate", *arguments)
    assert code in (2, 6) and not out and part in line and line.count("\n") == 1


def test_a_fit_needs_prompts_and_an_accelerator_with_numbers() -> None:
    accelerator = parse("skipvar")
    assert isinstance(accelerator, Fittable) and not isinstance(parse("drop_last"), Fittable)
    with pytest.raises(OptionError, match=r"a fit needs 8 pictures or more, .*not 7"):
        fit(Pipeline(tiny("scenes")), accelerator, ["a star"] * 7)
