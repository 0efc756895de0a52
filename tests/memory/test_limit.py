"""Drawing within a limit of memory: what is chosen, that it is lossless, and what is said where nothing helps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.families.vq_model import squares
from stagevar.loading.save import save_model
from stagevar.loading.sources import load
from stagevar.memory.limit import INTERPRETER, Held, amount, fitted, needed, read_amount
from stagevar.memory.predict import run_bytes
from stagevar.pipeline import Pipeline
from stagevar.prepared import prepare
from stagevar.request import Request

Run = Callable[..., tuple[int, str, str]]
PLAIN = Held(torch.float32, "", 0, movable=False, offloaded=False)


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GB", 8 * 10**9), ("7.5 GiB", 15 * 2**29), ("500mb", 5 * 10**8), ("2k", 2000), ("1024", 1024), (12, 12)],
)
def test_amounts_are_read(text: str | int, count: int) -> None:
    assert read_amount(text) == count


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", 0, True, "8XB", "1e9", "8 GB of it"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="such as 8GB"):
        read_amount(text)


def model() -> ScaleModel:
    """A VAR of few scales: a prediction costs time for every operation."""
    return tiny("var", schedules=(squares(1, 2, 3),))


@pytest.fixture(scope="module")
def needs() -> dict[int, int]:
    """What batches of the tiny VAR need in all."""
    made = model()
    plain = prepare(made, Request("3"))
    return {n: needed(run_bytes(made, plain.schedule, plain.plan, n), 0, offload=False) for n in (1, 2, 3, 6, 8)}


@pytest.mark.slow
def test_as_many_pictures_share_a_pass_as_fit(needs: dict[int, int]) -> None:
    made = model()
    plain = prepare(made, Request("3"))
    for limit, batch in ((needs[8], 8), (needs[8] - 1, 7), (needs[6], 6), (needs[1], 1)):
        found = fitted(made, plain.schedule, plain.plan, 8, limit, PLAIN)
        assert batch - 1 <= found.batch <= batch and found.need <= limit and not found.offload
    assert "8 pictures at once: " in str(fitted(made, plain.schedule, plain.plan, 8, needs[8], PLAIN))
    assert "1 picture at once in place of 8" in str(fitted(made, plain.schedule, plain.plan, 8, needs[1], PLAIN))


def test_the_text_encoder_moves_only_if_no_picture_fits_beside_it(needs: dict[int, int]) -> None:
    made, held = model(), replace(PLAIN, text_encoder=10**8, movable=True)
    plain = prepare(made, Request("3"))
    both = fitted(made, plain.schedule, plain.plan, 2, needs[1] + 10**8, held)
    assert (both.batch, both.offload) == (1, False)
    away = fitted(made, plain.schedule, plain.plan, 2, needs[1] + 10**8 - 1, held)
    assert away.offload and "text encoder on the CPU between prompts" in str(away)
    assert away.need == run_bytes(made, plain.schedule, plain.plan, 1).weights + 10**8 + INTERPRETER, "it still reads"
    with pytest.raises(OptionError, match="more than the limit"):
        fitted(made, plain.schedule, plain.plan, 2, needs[1] + 10**8 - 1, replace(held, movable=False))


def test_a_limit_that_cannot_be_met_says_the_least_and_what_rounding_saves(needs: dict[int, int]) -> None:
    with pytest.raises(OptionError) as raised:
        Pipeline(model(), max_memory=needs[1] - 1)(3, seed=0)
    said = str(raised.value)
    assert f"needs {amount(needs[1])}, more than the limit of" in said
    assert re.search(r"with dtype bfloat16 [\d.]+ MB", said) and "dtype bfloat16 and quantize int8" in said


def test_a_split_batch_draws_the_same_pictures(needs: dict[int, int], caplog: pytest.LogCaptureFixture) -> None:
    made = model()
    free, bound = Pipeline(made), Pipeline(made, max_memory=needs[2])
    caplog.set_level("INFO")
    whole, split = (pipe([3, 4, 5], seed=0, output_type="pt") for pipe in (free, bound))
    assert {len(record.images) for record in whole.trace.records} == {3}
    assert {len(record.images) for record in split.trace.records} == {1, 2}
    for one, other in zip(whole.images, split.images, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert "2 pictures at once in place of 3" in caplog.text


@pytest.mark.slow
def test_every_door_takes_a_limit(tmp_path: Path, needs: dict[int, int], command: Run) -> None:
    folder = tmp_path / "model"
    save_model(model(), folder)
    with pytest.raises(OptionError, match=f"needs {re.escape(amount(needs[1]))}"):
        Pipeline.from_pretrained(folder, max_memory="100MB")
    assert Pipeline.from_pretrained(folder, max_memory=f"{needs[1]}B").max_memory == needs[1]

    drawing = "generate", "3", "-n", "3", "-m", folder, "-o", tmp_path, "--max-memory"
    code, out, _ = command(*drawing, needs[2])
    assert code == 0 and "max memory: 2 pictures at once in place of 3" in out
    code, _, error = command(*drawing, "100MB")
    assert code != 0 and "more than the limit of 100 MB" in error

    code, out, _ = command("doctor", folder, "--batch", 3, "--max-memory", needs[2], "--json")
    found = json.loads(out)
    assert code == 0 and found["batch"] == 2 and found["need"] == needs[2] and found["fit"].startswith("2 pictures")
    code, out, _ = command("doctor", folder, "--max-memory", "100MB")
    assert code == 1 and "more than the limit of 100 MB" in out.replace("\n", " ")


def test_a_smaller_picture_than_the_first_may_fit(tmp_path: Path) -> None:
    save_model(tiny("var", schedules=(squares(1, 48), squares(1, 3))), tmp_path)
    made = load(tmp_path)
    plans = [prepare(made, Request("3", height=side, width=side)) for side in (4 * 48, 4 * 3)]
    large, small = (needed(run_bytes(made, each.schedule, each.plan, 1), 0, offload=False) for each in plans)
    assert small < large
    pipe = Pipeline.from_pretrained(tmp_path, max_memory=small)
    assert len(pipe(3, seed=0, height=plans[1].size[0], width=plans[1].size[1]).images) == 1
    with pytest.raises(OptionError, match="more than the limit"):
        pipe(3, seed=0)
    with pytest.raises(OptionError, match="more than the limit"):
        Pipeline.from_pretrained(tmp_path, max_memory=small - 1)


@pytest.mark.slow
def test_the_cache_is_halved_only_if_no_picture_fits_otherwise() -> None:
    """On a model whose peak lies in the loop, not in its decoder."""
    made = tiny("infinity")
    plain = prepare(made, Request("a star"))
    half = prepare(made, Request("a star", accelerator="half_cache"))
    most, least = (needed(run_bytes(made, each.schedule, each.plan, 1), 0, offload=False) for each in (plain, half))
    assert least < most
    assert not fitted(made, plain.schedule, plain.plan, 2, most, PLAIN).half_cache
    found = fitted(made, plain.schedule, plain.plan, 2, most - 1, PLAIN)
    assert (found.half_cache, found.batch, found.need) == (True, 1, least)
    assert "keys and values in bfloat16" in str(found)
    assert not fitted(made, half.schedule, half.plan, 2, least, PLAIN).half_cache, "it is already"

    for chosen, written in (("none", "half_cache"), ("drop_last(0)", "drop_last(n=0)+half_cache")):
        free, bound = Pipeline(made, chosen), Pipeline(made, chosen, max_memory=least)
        drawn = bound("a star", seed=0, output_type="pt")
        assert drawn.trace.pictures[0]["accelerator"] == written
        again = free("a star", seed=0, output_type="pt", accelerator=written)
        assert torch.equal(drawn.images[0], again.images[0]), "the trace repeats the picture"
