"""Picture decoders in bfloat16: where it is on, the picture is kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stagevar.engine.contract.model import ScaleModel
from stagevar.families.tiny import tiny
from stagevar.families.tokenizers.autoencoder import Decoder, Upsample
from stagevar.families.tokenizers.half import halve
from stagevar.pipeline import Pipeline
from stagevar.request import Request

FAMILIES = {"var": "207", "infinity": "a red fox", "star": "a red fox", "switti": "a red fox", "hart": "a red fox"}


def decoder(model: ScaleModel) -> Decoder:
    found = model.tokenizer.decoder  # type: ignore[union-attr]
    assert isinstance(found, Decoder)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_half_decoder_keeps_the_picture_within_two_levels(family: str) -> None:
    model = tiny(family)
    latent = [*Pipeline(model).events([Request(FAMILIES[family], seed=1)], output_type="latent")][-1].latent
    with torch.inference_mode():
        exact = model.decode(latent)
        Pipeline(model).to(dtype="bfloat16")
        halve(model)
        found = model.decode(latent)
    halved = decoder(model).halved
    assert halved is not None and (found - exact).abs().max() * 255 <= 2
    assert (halved > 0) == (not torch.equal(found, exact))


def test_some_decoder_is_halved_and_is_whole_again_in_float32() -> None:
    model = tiny("var")
    pipe, latent = Pipeline(model), torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = model.decode(latent)
        pipe.to(dtype="bfloat16")("207", seed=1)
        halved = decoder(model).halved
        assert halved is not None and halved > 0 and not torch.equal(model.decode(latent), before)
        pipe.to(dtype="float32")
        assert decoder(model).halved is None and torch.equal(model.decode(latent), before)


def test_a_decoder_in_float32_stays_as_it_is() -> None:
    model = tiny("infinity")
    halve(model)
    assert decoder(model).halved is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_upsampling_by_four_small_kernels_is_that_of_a_doubled_map(dtype: torch.dtype) -> None:
    upsample, x = Upsample(6).to(dtype), torch.randn(2, 6, 5, 7, dtype=dtype)
    wanted = upsample.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(upsample(x), wanted, rtol=1e-5, atol=1e-12 if dtype == torch.float64 else 1e-5)
