"""Weights in eight bits: how far they are rounded, what they weigh, and that every door takes them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from stagevar.errors import OptionError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.int8 import Int8Linear, linears, quantize
from stagevar.families.linear import Linear, pack
from stagevar.families.tiny import tiny
from stagevar.loading.place import in_blocks
from stagevar.loading.save import save_model
from stagevar.measure.bench.compare import compare
from stagevar.measure.likeness.fidelity import ssim
from stagevar.memory.predict import run_bytes, weight_bytes
from stagevar.pipeline import Pipeline
from stagevar.request import Request


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_is_rounded_by_half_a_step_at_most(dtype: torch.dtype) -> None:
    plain = Linear(64, 48).requires_grad_(False)
    plain.weight[3] = 0
    rounded = Int8Linear(plain, dtype)
    step = plain.weight.abs().amax(1, keepdim=True) / 127
    error = (rounded.codes * rounded.scales.float() - plain.weight).abs()
    spread = 0.0 if dtype == torch.float32 else 127 * 2**-8  # the largest codes, where the scale was rounded down
    assert (error <= (0.5 + spread) * step + 1e-6).all()
    assert rounded.codes.abs().amax(1)[torch.arange(48) != 3].min() >= 126
    assert not rounded.codes[3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rounded_layer_multiplies_by_its_rounded_weight(dtype: torch.dtype) -> None:
    rounded, x, other = Int8Linear(Linear(32, 16), dtype), torch.randn(2, 5, 32).to(dtype), torch.randn(16).to(dtype)
    weight = rounded.codes.to(dtype) * rounded.scales
    torch.testing.assert_close(rounded(x), F.linear(x, weight, rounded.bias))
    torch.testing.assert_close(rounded(x, other, gelu=True), F.gelu(F.linear(x, weight, other), approximate="tanh"))
    assert rounded.weight.dtype == dtype and rounded.weight.isnan().all()


def test_a_rounded_layer_is_neither_packed_nor_saved_and_can_be_copied_and_moved() -> None:
    rounded, x = Int8Linear(Linear(32, 16), torch.float32), torch.randn(3, 32)
    before = rounded(x)
    pack(rounded)
    assert torch.equal(rounded(x), before)
    assert torch.equal(copy.deepcopy(rounded)(x), before)
    moved = copy.deepcopy(rounded).to("meta")
    assert moved.codes.is_meta and moved.weight.is_meta and moved.codes.dtype == torch.int8
    assert rounded.to("cpu").weight.untyped_storage().nbytes() == 4
    with pytest.raises(OptionError, match="without quantize"):
        rounded.state_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_draws_with_int8_weights(family: str, tmp_path: Path) -> None:
    save_model(tiny(family), tmp_path / "model")
    pipes = [Pipeline.from_pretrained(tmp_path / "model", quantize=kind) for kind in (None, "int8")]
    plain, rounded = pipes
    names = {name for name, layer in rounded.model.named_modules() if isinstance(layer, Int8Linear)}
    assert names == set(linears(plain.model, in_blocks)) and all(".blocks." in f".{name}" for name in names)
    prompt = plain.encode("3") if family == "var" else None
    assert repr(rounded).count("with int8 weights") == 1
    with pytest.raises(OptionError, match="without quantize"):
        save_model(rounded.model, tmp_path / "other")
    with pytest.raises(OptionError, match="load the model anew"):
        rounded.to(dtype="bfloat16")
    assert rounded.to("cpu", "float32") is rounded
    if prompt is not None:
        first, second = (pipe(prompt, seed=0, top_k=1, output_type="pt") for pipe in pipes)
        assert ssim(torch.stack(first.images), torch.stack(second.images)).item() > 0.5
        assert (first.trace.machine["quantize"], second.trace.machine["quantize"]) == (None, "int8")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prediction_counts_int8_weights(family: str) -> None:
    model = tiny(family)
    wanted = weight_bytes(model, torch.float32, "int8")
    plan = Pipeline(model).prepare(Request("any")).plan
    found = run_bytes(model, model.schedule(), plan, 1, quantize="int8")
    plain = run_bytes(model, model.schedule(), plan, 1)
    assert found.weights == wanted < plain.weights
    assert found.peak >= plain.peak  # a layer's weight in the compute dtype comes on top
    quantize(model, in_blocks, torch.float32)
    stored = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in [*model.parameters(), *model.buffers()]
    }
    blanks = 4 * len([layer for layer in model.modules() if isinstance(layer, Int8Linear)])
    assert sum(stored.values()) - blanks == pytest.approx(wanted, rel=0.02)
    assert weight_bytes(model, torch.float32, "int8") == wanted
    assert weight_bytes(model, torch.float32) == plain.weights


def test_int8_weights_draw_within_a_limit(tmp_path: Path) -> None:
    save_model(tiny("scenes"), tmp_path)
    free, bound = (Pipeline.from_pretrained(tmp_path, quantize="int8", max_memory=each) for each in (None, "2GB"))
    first, second = (pipe("a red circle", seed=0, output_type="pt").images[0] for pipe in (free, bound))
    assert torch.equal(first, second)


@pytest.mark.slow
def test_compare_says_what_rounding_costs(scenes_pair: tuple[Pipeline, Pipeline]) -> None:
    plain, rounded = scenes_pair
    found = compare(rounded, ["drop_last(1)"], captions=2, batch_size=2, reference=plain)
    first, none, last = found["rows"]
    assert [row["accelerator"] for row in found["rows"]] == ["none in float32", "none", "drop_last(1)"]
    assert found["quantize"] == "int8" and first["ssim"] == pytest.approx(1)
    assert 0.5 < none["ssim"] < 1 and last["ssim"] < 1
    assert none["oracle_difference"] == pytest.approx(none["oracle"] - first["oracle"])
    with pytest.raises(OptionError, match="by part"):
        compare(rounded, [], captions=2, parts=True, reference=plain)


@pytest.fixture(scope="module")
def scenes_pair() -> tuple[Pipeline, Pipeline]:
    return Pipeline.from_pretrained("scenes"), Pipeline.from_pretrained("scenes", quantize="int8")


def test_another_rounding_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(OptionError, match="quantize must be int8, or left out, not 'int4'"):
        Pipeline.from_pretrained("scenes", quantize="int4")
    with pytest.raises(OptionError, match="use quantize"):
        Pipeline.from_pretrained("scenes", load_in_8bit=True)  # type: ignore[arg-type]
