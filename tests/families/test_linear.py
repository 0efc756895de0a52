"""Linear layers whose weights are laid out for the CPU's kernels: same numbers, one copy of the weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from stagevar.families.blocks import BiasedQueries
from stagevar.families.linear import Linear, pack, packable, unpack
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline

DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if packable(torch.zeros(2, 2, dtype=dtype))]
pytestmark = pytest.mark.skipif(not DTYPES, reason="this CPU has no kernels for laid-out weights")


def layer(inputs: int = 37, outputs: int = 53, dtype: torch.dtype = torch.float32) -> Linear:
    return Linear(inputs, outputs).requires_grad_(False).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_layer_computes_the_same(dtype: torch.dtype) -> None:
    plain, x = layer(dtype=dtype), torch.randn(3, 5, 37).to(dtype)
    other = torch.randn(53).to(dtype)
    wanted = plain(x), plain(x, other), plain(x, gelu=True)
    torch.testing.assert_close(wanted[1], F.linear(x, plain.weight, other))
    torch.testing.assert_close(wanted[2], F.gelu(wanted[0], approximate="tanh"))
    pack(plain)
    for found, want in zip((plain(x), plain(x, other), plain(x, gelu=True)), wanted, strict=True):
        torch.testing.assert_close(found, want)
    assert plain(x[:0]).shape == (0, 5, 53)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_layer_holds_its_weight_once_and_gives_it_back(dtype: torch.dtype) -> None:
    packed = layer(dtype=dtype)
    weight = packed.weight.clone()
    pack(packed)
    assert packed.weight.untyped_storage().nbytes() == dtype.itemsize
    assert packed.weight.shape == weight.shape and packed.weight.dtype == dtype and packed.weight.isnan().all()
    for same in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(same.weight, weight)
    assert torch.equal(packed.state_dict()["weight"], weight)
    assert packed.weight.isnan().all()
    packed.to(torch.float64)
    assert torch.equal(packed.weight, weight.double())


def test_new_weights_replace_packed_ones() -> None:
    packed, other = layer(), layer()
    pack(packed)
    packed.load_state_dict(other.state_dict())
    x = torch.randn(4, 37)
    assert torch.equal(packed(x), other(x))


def test_a_layer_in_training_stays_as_it_is() -> None:
    trained = Linear(8, 8)
    pack(trained)
    assert not trained.weight.isnan().any()


@pytest.mark.skipif(torch.float32 not in DTYPES, reason="float32 only")
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 96), (37, 53), (768, 3072), (1024, 64)])
def test_a_row_does_not_depend_on_how_many_rows_there_are(inputs: int, outputs: int) -> None:
    packed, x = layer(inputs, outputs), torch.randn(700, inputs)
    pack(packed)
    whole = packed(x)
    for rows in (2, 3, 8, 50, 128, 513):
        assert torch.equal(packed(x[:rows]), whole[:rows])


@pytest.mark.skipif(torch.float32 not in DTYPES, reason="float32 only")
@pytest.mark.parametrize("family", ["scenes", "var"])
def test_pictures_of_a_batch_are_those_drawn_alone_bit_for_bit(family: str) -> None:
    pipe = Pipeline(tiny(family))
    prompts = ["a red circle", "two blue stars"] if family == "scenes" else ["3", "207"]
    smooth = True if family == "var" else None
    together = pipe(prompts, seed=[1, 2], smooth=smooth, output_type="pt").images
    for prompt, seed, picture in zip(prompts, (1, 2), together, strict=True):
        assert torch.equal(pipe(prompt, seed=seed, smooth=smooth, output_type="pt").images[0], picture)


def test_a_pipeline_moves_and_casts_packed_weights() -> None:
    pipe = Pipeline(tiny("scenes"))
    before = {name: weight.clone() for name, weight in pipe.model.state_dict().items()}
    pipe("a red circle", seed=1)
    pipe.to(dtype="bfloat16")
    pipe("a red circle", seed=1)
    unpack(pipe.model)
    for name, weight in pipe.model.state_dict().items():
        assert torch.equal(weight.float(), before[name].to(weight.dtype).float()), name


@pytest.mark.parametrize("family", ["scenes", "hart"])
def test_packed_attention_joins_its_bias_once_until_its_weights_change(family: str) -> None:
    model = tiny(family)
    part = next(each for each in model.modules() if isinstance(each, BiasedQueries))
    with torch.no_grad():
        part.q_bias.copy_(torch.randn_like(part.q_bias))
    usual, _ = part.joined()
    assert part.joined()[0] is not usual
    pack(model)
    assert part.joined()[0] is part.joined()[0] and torch.equal(part.joined()[0], usual)
    part.load_state_dict(part.state_dict() | {"q_bias": torch.ones_like(part.q_bias)})
    assert torch.equal(part.joined()[0][: len(part.q_bias)], torch.ones_like(part.q_bias))
    pack(model)
    assert model.double() is model and part.joined()[0].dtype == torch.float64
    part.q_bias.requires_grad_()
    pack(model)
    assert part.joined()[0].requires_grad
