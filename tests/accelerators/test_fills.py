"""Fills: what is learnt of plain pictures, when it is at work, and that a picture keeps its bits without them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stagevar.accelerators import fills
from stagevar.accelerators.halfway import halfway
from stagevar.accelerators.stagevar import StageVAR
from stagevar.engine.grids.rows import resize_rows
from stagevar.engine.plan.channels import Channels
from stagevar.engine.plan.parts import PartRows, blocks
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.errors import OptionError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.tiny import tiny
from stagevar.fit import Fit
from stagevar.loading.save import save_model
from stagevar.measure.study.fitting import fit
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PIPE = Pipeline(tiny("scenes"))
SCHEDULE = PIPE.model.schedule()
DEPTH, WIDTH = PIPE.model.depth, PIPE.model.config.width
LEADING = len(blocks(fills.LEAD, DEPTH))
PROMPTS = ["a star", "two red squares", "a green ring", "a blue cross"]
HALF = halfway(SCHEDULE, "fills")


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return fit(PIPE, StageVAR(), PROMPTS * 2, batch_size=3)


@pytest.fixture(scope="module")
def file(fitted: Fit, tmp_path_factory: pytest.TempPathFactory) -> str:
    fitted.save(path := tmp_path_factory.mktemp("fit") / "fit.json")
    return str(path)


def channels(scales: range) -> dict[int, Channels]:
    ones = [[1.0] * WIDTH] * LEADING
    return dict.fromkeys(scales, Channels.of(ones, ones))


def drawn(accelerator: StageVAR, prompts: Sequence[str], pipe: Pipeline = PIPE) -> torch.Tensor:
    requests = [Request(text, seed=len(text), accelerator=accelerator) for text in prompts]
    *_, last = pipe.events(requests, output_type="pt")
    assert last.result is not None
    return torch.stack(last.result.images)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_gain_and_bias_are_those_that_the_rows_of_the_prompts_have() -> None:
    learning, source, later = fills.Learning(SCHEDULE, DEPTH, HALF), SCHEDULE[HALF], SCHEDULE[HALF + 1]
    learning("begin", HALF, torch.zeros(3, 1, 1, 1))
    for seed in range(3):
        rows = torch.randn(6, source[0] * source[1], WIDTH, generator=torch.Generator().manual_seed(seed))
        grown = resize_rows(rows, source, later, "bilinear")
        grown = torch.cat([2 * grown[:3] + 0.5, torch.randn_like(grown[3:])])
        for block in range(DEPTH):
            learning(f"part.{block}.attention", HALF, torch.cat([torch.full((6, 2, WIDTH), 9.0), rows], 1))
            learning(f"part.{block}.attention", HALF + 1, torch.cat([torch.full((6, 2, WIDTH), -9.0), grown], 1))
            learning(f"part.{block}.cross", HALF + 1, torch.randn_like(grown))
    [found] = learning.numbers()
    assert found["scale"] == HALF + 1
    assert torch.tensor(found["gains"]).allclose(torch.full((LEADING, WIDTH), 2.0), atol=1e-3)
    assert torch.tensor(found["biases"]).allclose(torch.full((LEADING, WIDTH), 0.5), atol=1e-3)


def test_a_channel_that_never_changes_gets_its_mean() -> None:
    learning, later = fills.Learning(SCHEDULE, DEPTH, HALF), SCHEDULE[HALF + 1]
    learning("begin", HALF, torch.zeros(1, 1, 1, 1))
    for block in range(LEADING):
        learning(f"part.{block}.attention", HALF, torch.ones(2, SCHEDULE[HALF][0] ** 2, WIDTH))
        learning(f"part.{block}.attention", HALF + 1, torch.full((2, later[0] * later[1], WIDTH), 3.0))
    [found] = learning.numbers()
    assert set(found["gains"][0]) == {0.0} and set(found["biases"][0]) == {3.0}


def test_channels_are_told_apart_by_their_numbers_alone() -> None:
    one, same, other = (Channels.of([[g, 2.0]], [[0.0, 1.0]]) for g in (1.0, 1.0, 1.5))
    assert one == same != other and hash(one) == hash(same) and "gains" not in repr(one)
    assert one(torch.tensor([[[3.0, 4.0]]]), 0).tolist() == [[[3.0, 9.0]]]
    with pytest.raises(OptionError, match="fitted for 2 channels, and the model has 3"):
        one(torch.zeros(1, 1, 3), 0)


@pytest.mark.parametrize("gains", [[[1.0], [1.0, 2.0]], [], [[]], "x", [[float("nan")]], [[1.0, 2.0]]])
def test_damaged_channels_are_refused(gains: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Channels.of(gains, [[1.0]])  # type: ignore[arg-type]


# --- plans ------------------------------------------------------------------------------------------------------------


def test_fills_lie_ready_without_effect_and_work_once_they_are_called() -> None:
    plain = Plan.uniform(len(SCHEDULE), guidance=2.0)
    late = range(HALF + 1, len(SCHEDULE))
    ready = fills.prepared(plain, HALF, channels(late))
    assert [k for k in range(len(ready)) if ready[k].parts] == list(late)
    pictures = [
        PIPE("a star", seed=0, plan=plan, output_type="pt").images[0]
        for plan in (plain, ready, fills.filled(ready, late[-1], 1.0))
    ]
    assert pictures[0].equal(pictures[1]) and not pictures[0].equal(pictures[2])


def test_slow_qualities_fill_fewer_blocks() -> None:
    depth, late = 18, len(SCHEDULE) - 1
    ready = fills.prepared(Plan.uniform(len(SCHEDULE), guidance=2.0), HALF, channels(range(HALF + 1, late + 1)))
    counts = []
    for speed in (0.2, 0.25, 0.3, 0.4, 0.5, 1.0):
        [rule] = fills.filled(ready, late, speed)[late].parts
        counts.append(len(blocks(rule.layers, depth)) if rule.prune else 0)
    assert counts == [0, 0, 1, 4, 6, 6]


def test_a_gain_of_one_and_no_bias_change_nothing() -> None:
    ones, zeros = ([[value] * WIDTH] * LEADING for value in (1.0, 0.0))
    rules = [PartRows(1.0, ("attention",), fills.LEAD, channels=each) for each in (None, Channels.of(ones, zeros))]
    plan = Plan.uniform(len(SCHEDULE), guidance=2.0)
    one, other = (
        PIPE("a star", seed=0, plan=plan.replace([HALF + 1], parts=(rule,)), output_type="pt").images[0]
        for rule in rules
    )
    assert one.equal(other)


def test_rows_get_what_was_added_half_way_with_gain_and_bias() -> None:
    plan = fills.prepared(Plan.uniform(len(SCHEDULE), guidance=2.0), HALF, channels(range(HALF + 1, len(SCHEDULE))))
    plan = fills.filled(plan, HALF + 1, 1.0)
    shown: dict[int, torch.Tensor] = {}

    def tap(name: str, k: int, tensor: torch.Tensor) -> None:
        if name == "part.0.attention":
            shown[k] = tensor

    for _ in PIPE.events([Request("a star", seed=0, plan=plan)], tap=tap):
        pass
    grown = resize_rows(shown[HALF], SCHEDULE[HALF], SCHEDULE[HALF + 1], "bilinear")
    assert shown[HALF + 1].allclose(grown + 1, atol=1e-6)


def test_nothing_is_filled_from_a_scale_that_does_not_run_whole() -> None:
    plain, own = Plan.uniform(len(SCHEDULE), guidance=2.0), channels(range(HALF + 1, len(SCHEDULE)))
    for change in ({"run": "skip"}, {"tokens": Select(0.5, restore_by="zero_code")}):
        plan = plain.replace([HALF], **change)
        assert fills.prepared(plan, HALF, own) == plan
    together = plain.replace([HALF + 1], group=True)
    assert fills.prepared(together, HALF, own) == together
    ready = fills.prepared(plain, HALF, own)
    assert fills.released(ready, HALF) == plain and fills.released(ready, HALF + 1) == ready


# --- with stagevar ----------------------------------------------------------------------------------------------------


def test_a_fit_has_the_leading_third_of_the_blocks_at_every_scale_beyond_half(fitted: Fit) -> None:
    assert [each["scale"] for each in fitted.numbers["fills"]] == list(range(HALF + 1, len(SCHEDULE)))
    for each in fitted.numbers["fills"]:
        assert [len(row) for row in each["gains"]] == [WIDTH] * LEADING == [len(row) for row in each["biases"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_a_batch_are_filled_as_they_are_alone(family: str, tmp_path: Path) -> None:
    pipe = Pipeline(tiny(family))
    prompts = ["volcano", "3"] if family == "var" else PROMPTS[:3]
    fit(pipe, StageVAR(), (prompts * 4)[:8], batch_size=4).save(tmp_path / "fit.json")
    accelerator = StageVAR(0.0, fit=str(tmp_path / "fit.json"))
    together = drawn(accelerator, prompts, pipe)
    for text, picture in zip(prompts, together, strict=True):
        assert torch.allclose(drawn(accelerator, [text], pipe)[0], picture, atol=1e-4)
    assert not torch.equal(together, drawn(StageVAR(0.0), prompts, pipe))


def test_the_dial_still_ends_at_the_plain_run(file: str) -> None:
    plain = PIPE(PROMPTS, seed=[len(text) for text in PROMPTS], output_type="pt").images
    assert torch.equal(drawn(StageVAR(1.0, fit=file), PROMPTS), torch.stack(plain))


def test_a_fit_in_the_folder_of_the_model_is_read_by_itself(fitted: Fit, file: str, tmp_path: Path) -> None:
    save_model(PIPE.model, tmp_path)
    request = Request("a star", accelerator="stagevar(target=0.9)")
    bare = Pipeline.from_pretrained(str(tmp_path))
    with pytest.raises(OptionError, match=f"no fit for model 'scenes-tiny'.*--model {tmp_path}"):
        bare.prepare(request)
    fitted.save(tmp_path / "stagevar.json")
    plan = bare.prepare(request).plan
    assert plan == PIPE.prepare(replace(request, accelerator=f"stagevar(target=0.9, fit={file!r})")).plan
    replace(fitted, schedule=SCHEDULE[:-1]).save(tmp_path / "stagevar.json")
    assert not any(scale.parts for scale in bare.prepare(replace(request, accelerator="stagevar")).plan)
    with pytest.raises(OptionError, match=r"stagevar\.json is for other grids"):
        bare.prepare(request)
    replace(fitted, model="other").save(tmp_path / "stagevar.json")
    with pytest.raises(OptionError, match=r"stagevar\.json: .*the fit is for model 'other', not for 'scenes-tiny'"):
        bare.prepare(replace(request, accelerator="stagevar"))


@pytest.mark.parametrize("numbers", [{}, {"fills": [{}]}, {"fills": [{"scale": 7, "gains": [[1.0]], "biases": []}]}])
def test_damaged_fills_are_refused(fitted: Fit, numbers: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(replace(fitted, numbers=numbers).to_dict()))
    with pytest.raises(OptionError, match="damaged fit"):
        PIPE.prepare(Request("a star", accelerator=StageVAR(fit=str(path))))
    rows = [{"scale": 7, "gains": [[1.0]] * (LEADING + 1), "biases": [[1.0]] * (LEADING + 1)}]
    path.write_text(json.dumps(replace(fitted, numbers={"fills": rows}).to_dict()))
    with pytest.raises(OptionError, match=f"not of {LEADING} blocks"):
        PIPE.prepare(Request("a star", accelerator=StageVAR(fit=str(path))))
    for wrong in ([99], [1.5], [4, 4]):
        lines = [[1.0]] * LEADING
        rows = [{"scale": scale, "gains": lines, "biases": lines} for scale in wrong]
        path.write_text(json.dumps(replace(fitted, numbers={"fills": rows}).to_dict()))
        with pytest.raises(OptionError, match="not of scales of the schedule"):
            PIPE.prepare(Request("a star", accelerator=StageVAR(fit=str(path))))
