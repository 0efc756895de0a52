"""A network that restores: what it is before training, what it computes once, and what is asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import token_rows
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.errors import ForeignCheckpointError, OptionError, PromptError
from stagevar.families.blocks import rotate, split_heads
from stagevar.families.scenes.picture import PictureAttention
from stagevar.families.tiny import randomize, tiny
from stagevar.listing import shipped
from stagevar.loading.save import save_model
from stagevar.measure.predict.flops import SOLVING, condition_flops, plan_flops
from stagevar.measure.study.study import study
from stagevar.memory.predict import run_bytes
from stagevar.pipeline import Pipeline
from stagevar.request import Request

GRIDS = {"grids": (1, 2, 3, 5, 8), "codes": (8, 8, 16, 16, 16)}
MODEL: Any = tiny("scenes", restores=True, **GRIDS)
"""Its weights are laid out once ``PIPE`` has drawn; tests that read them take a new one."""
PIPE = Pipeline(MODEL)
PICTURES = [np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8) for i in range(3)]
PICTURES[1][:, 6:] = 40  # flat but for its left side


def same_codes(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_before_training_it_has_the_bits_of_the_network_that_it_is_made_of() -> None:
    words, model = tiny("scenes", **GRIDS), tiny("scenes", seed=1, restores=True, **GRIDS)
    new: Any = type(model)(model.config)  # type: ignore[call-arg, arg-type]
    gates = {name: tensor for name, tensor in new.state_dict().items() if "picture.proj" in name or name == "trust"}
    assert len(gates) == 2 * model.depth + 1 and not any(tensor.any() for tensor in gates.values())
    model.load_state_dict(model.state_dict() | words.state_dict() | gates)
    plan = Plan.uniform(5, guidance=2.0)
    prompts = ["a red circle", "two stars"]
    plain = Pipeline(words)(prompts, seed=1, plan=plan, output_type="latent")
    seeing = Pipeline(model)(prompts, seed=1, plan=plan, image=PICTURES[:2], output_type="latent")
    assert all(torch.equal(a, b) for a, b in zip(plain.images, seeing.images, strict=True))


def test_a_new_network_looks_at_its_own_place() -> None:
    torch.manual_seed(0)
    part = PictureAttention(32, 2)
    rope = MODEL._place((4, 4))[1]
    keys, _ = part.keys_values(torch.zeros(1, 16, 32), rope)
    q = rotate(split_heads(part.q.bias.expand(1, 16, -1), 2), rope)
    assert torch.equal((q @ keys.mT)[0].argmax(-1), torch.arange(16).expand(2, 16))


def test_a_row_can_tell_which_part_of_a_state_is_its_own() -> None:
    """Moving rows and states alike changes nothing; moving rows alone does."""
    part, x = PictureAttention(32, 2), torch.randn(1, 16, 32)
    randomize(part, 0)
    states, rope, finer = torch.randn(1, 16, 32), MODEL._place((4, 4))[1], MODEL._place((8, 8))[1]
    turn = MODEL._place((1, 1))[1]
    moved = torch.view_as_real(torch.view_as_complex(rope) * torch.view_as_complex(turn))
    found = part(x, *part.keys_values(states, rope), rope)
    torch.testing.assert_close(part(x, *part.keys_values(states, moved), moved), found, rtol=1e-3, atol=1e-3)
    one = torch.zeros(1, 1, 32).expand(1, 2, 32)
    left, right = part(one, *part.keys_values(states[:, :1], rope[:1]), finer[:2])[0]
    assert not torch.allclose(left, right, atol=1e-2)


def test_an_estimate_that_is_trusted_to_the_end_is_what_is_drawn() -> None:
    model: Any = tiny("scenes", restores=True, **GRIDS)
    model.trust.fill_(1e6)
    with torch.inference_mode():
        picture = torch.from_numpy(PICTURES[0]).permute(2, 0, 1)[None] / 255
        lacking, codes = model.looked_at(picture)[1], []
        for k, side in enumerate(model.config.grids):
            vectors = token_rows(resize(lacking, (side, side), "area"))
            codes.append(model.tokenizer.nearest(k, vectors[0]).view(side, side))
            lacking = lacking - model.tokenizer.upsampled(k, codes[-1].view(1, -1))
    assert same_codes(Pipeline(model)(image=PICTURES[0], temperature=0.0).codes[0], codes)


def test_keys_of_a_picture_are_computed_once_and_for_both_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, keys_values = [], PictureAttention.keys_values

    def noting(own: PictureAttention, states: torch.Tensor, rope: torch.Tensor) -> Any:
        asked.append(states.shape[0])
        return keys_values(own, states, rope)

    monkeypatch.setattr(PictureAttention, "keys_values", noting)
    PIPE(["a star", "a ring"], image=PICTURES[:2])
    assert asked == [2] * MODEL.depth
    with torch.inference_mode():
        pictures = torch.rand(2, 3, 16, 16)
        condition = MODEL.condition(MODEL.encode_text(["a star", "a ring"]))
        one, other = MODEL.seeing(condition, pictures), MODEL.seeing(condition, pictures)
    for (k, v), (again, _) in zip(one.picture_kv, other.picture_kv, strict=True):
        assert torch.equal(k, again) and torch.equal(k[:2], k[2:]) and torch.equal(v[:2], v[2:])
    assert torch.equal(one.take([1, 3]).picture_kv[0][0], one.picture_kv[0][0][[1, 3]])


def test_a_picture_of_a_batch_is_the_picture_alone_and_needs_no_words() -> None:
    together = PIPE(image=PICTURES, seed=3)
    for i, picture in enumerate(PICTURES):
        assert same_codes(together.codes[i], PIPE("", image=picture, seed=3).codes[0])
    assert not same_codes(together.codes[0], together.codes[1])
    assert together.prompts == ("", "", "") and together.trace.pictures[0]["unconditional"]
    assert {record.branch for record in together.trace.records} == {"null"}
    worded = PIPE("a star", image=PICTURES[0], seed=3)
    assert {record.branch for record in worded.trace.records} == {"cond"}
    assert not same_codes(worded.codes[0], together.codes[0])


def test_the_same_picture_twice_is_restored_alike_whatever_the_seed() -> None:
    greedy = {"temperature": 0.0}
    assert same_codes(
        PIPE(image=PICTURES[0], seed=1, **greedy).codes[0], PIPE(image=PICTURES[0], seed=2, **greedy).codes[0]
    )


@pytest.mark.parametrize("name", [row.name for row in shipped()])
def test_every_accelerator_restores(name: str) -> None:
    try:
        PIPE.prepare(Request("a star", accelerator=name))
    except OptionError:
        pytest.skip("the model does not take it")
    together = PIPE(["a star"] * 3, image=PICTURES, seed=3, accelerator=name)
    for i, picture in enumerate(PICTURES):
        alone = PIPE("a star", image=picture, seed=3, accelerator=name)
        assert same_codes(together.codes[i], alone.codes[0])


@pytest.mark.parametrize("accelerator", ["none", "outlines", "drop_last(1)"])
def test_operations_are_those_that_torch_counts(accelerator: str) -> None:
    model: Any = tiny("scenes", restores=True, **GRIDS)
    schedule, plan = model.schedule(), PIPE.prepare(Request("a star", accelerator=accelerator)).plan
    counting: dict[str, Any] = {"display": False, "custom_mapping": SOLVING}
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        words = model.condition(model.encode_text(["a star"]))
        with FlopCounterMode(**counting) as once:
            condition = model.seeing(words, torch.rand(1, 3, 16, 16))
        with FlopCounterMode(**counting) as counter:
            list(run(model, condition, schedule, [plan], [0]))
    length = condition.text_kv[0][0].shape[2]
    told = sum(row.total for row in plan_flops(model, schedule, plan, length))
    assert told == pytest.approx(counter.get_total_flops(), rel=0.02)
    blind = tiny("scenes", **GRIDS)
    assert condition_flops(model, length) - condition_flops(blind, length) == once.get_total_flops()


def test_memory_is_predicted_with_the_picture() -> None:
    plan, schedule = PIPE.prepare(Request("a star")).plan, MODEL.schedule()
    words = run_bytes(tiny("scenes", **GRIDS), schedule, plan, 2)
    assert run_bytes(MODEL, schedule, plan, 2).condition > words.condition


def test_a_mask_or_a_strength_keeps_codes_of_the_picture() -> None:
    given = PIPE.tokenize(PICTURES[0])
    assert same_codes(PIPE(image=PICTURES[0], strength=0).codes[0], given)
    found = PIPE(image=PICTURES[0], strength=0.4).codes[0]
    assert same_codes(found[:3], given[:3]) and not torch.equal(found[4], given[4])
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[:, 8:] = 255
    found = PIPE(image=PICTURES[0], mask=mask).codes[0]
    assert torch.equal(found[4][:, :4], given[4][:, :4]) and not torch.equal(found[4], given[4])
    assert PIPE(image=PICTURES[0][:8, :8], upscale=2).images[0].size == (16, 16)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no picture": ({"prompt": "a star"}, OptionError, "restores a picture; give it one"),
    "nothing": ({}, PromptError, "the prompt is empty"),
    "expand": ({"image": PICTURES[0], "expand": 4}, OptionError, "draws nothing around it"),
    "pad": ({"image": PICTURES[0], "fit": "pad"}, OptionError, "draws nothing around it"),
    "codes": ({"prompt": "a star", "forced": [None] * 5}, OptionError, "give it one"),
    "a plan by words": ({"image": PICTURES[0], "plan": Plan.uniform(5)}, PromptError, "there is none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_do_is_refused_before_anything_is_drawn(case: str) -> None:
    settings, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        PIPE.stream(**settings)


def test_other_models_want_words_and_it_has_no_likelihood() -> None:
    with pytest.raises(PromptError, match="say what to draw"):
        Pipeline(tiny("scenes", **GRIDS))(image=PICTURES[0])
    with pytest.raises(OptionError, match="sees the picture"):
        PIPE.log_likelihood(PICTURES[0], "a star")


@pytest.mark.parametrize("accelerator", ["skipvar", "stagevar(target=0.9)", "stagevar(fit='fit.json')"])
def test_no_numbers_are_fitted_to_it(accelerator: str) -> None:
    with pytest.raises(OptionError, match="no numbers can be fitted to such a model"):
        PIPE.stream("", image=PICTURES[0], accelerator=accelerator)
    with pytest.raises(OptionError, match="restores a picture; give it one"):
        study(PIPE, ["a star"])


def test_a_folder_holds_it(tmp_path: Path) -> None:
    save_model(tiny("scenes", restores=True, **GRIDS), tmp_path / "model")
    loaded = Pipeline.from_pretrained(tmp_path / "model")
    assert same_codes(loaded(image=PICTURES[0], seed=1).codes[0], PIPE(image=PICTURES[0], seed=1).codes[0])
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"restores": true', '"restores": false'))
    with pytest.raises(ForeignCheckpointError, match="left over"):
        Pipeline.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="5 is odd"):
        tiny("scenes", restores=True, grids=(1, 5), codes=(8, 8))


def test_it_runs_in_bfloat16_and_with_rounded_weights(tmp_path: Path) -> None:
    save_model(tiny("scenes", restores=True, **GRIDS), tmp_path / "model")
    for settings in ({"dtype": "bfloat16"}, {"quantize": "int8"}):
        pipe = Pipeline.from_pretrained(tmp_path / "model", **settings)
        assert pipe(image=PICTURES, accelerator="outlines").images[0].size == (16, 16)
