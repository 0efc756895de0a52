"""Convolutions by tiles: those of ``F.conv2d`` but for rounding, for any map, number of threads and batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.families.tiny import randomize
from stagevar.families.tokenizers import winograd
from stagevar.families.tokenizers.autoencoder import Decoder, Encoder
from stagevar.families.tokenizers.decoding import picture
from stagevar.families.tokenizers.winograd import convolved

CASES = {
    "3x3": ((40, 36), 3, (1, 1)),
    "sides that no tile divides": ((37, 50), 3, (1, 1)),
    "rows of a band": ((35, 33), 3, (0, 1)),
    "2x2": ((33, 41), 2, (1, 1)),
    "2x2, rows of a band": ((41, 33), 2, (0, 1)),
    "several blocks": ((97, 90), 3, (1, 1)),
}


def random(height: int, width: int, r: int, n: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height)
    x = torch.randn(n, 96, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(128, 96, r, r, generator=generator) / 96**0.5 / r, torch.randn(128, generator=generator)


@pytest.mark.parametrize("case", CASES)
def test_tiles_give_the_convolution(case: str) -> None:
    (height, width), r, padding = CASES[case]
    x, weight, bias = random(height, width, r)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    found = convolved(x, weight, bias, padding)
    assert found.shape == exact.shape and not torch.equal(found, F.conv2d(x, weight, bias, padding=padding))
    error = (found - exact).square().mean().sqrt() / exact.std()
    assert error < 1.5e-6
    assert (found - exact).abs().max() < 3e-5


@pytest.mark.parametrize("case", CASES)
def test_threads_change_no_bit(case: str) -> None:
    (height, width), r, padding = CASES[case]
    x, weight, bias = random(height, width, r)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(convolved(x, weight, bias, padding))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_picture_of_a_batch_has_the_bits_of_one_alone() -> None:
    x, weight, bias = random(40, 36, 3, n=3)
    together = convolved(x, weight, bias)
    for i in range(3):
        assert torch.equal(together[i : i + 1], convolved(x[i : i + 1], weight, bias))


def test_what_tiles_do_not_speed_up_goes_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small maps, few channels, other dtypes, and what is being trained."""
    x, weight, bias = random(40, 36, 3)
    monkeypatch.setattr(winograd, "_tiled", None)
    with pytest.raises(TypeError, match="NoneType"):
        convolved(x, weight, bias)
    convolved(x[:, :, :28], weight, bias)
    convolved(x, weight[:64], bias[:64])
    convolved(x[:, :64], weight[:, :64], bias)
    convolved(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    convolved(x, weight, None)
    convolved(x.clone().requires_grad_(), weight, bias).sum().backward()


def test_a_decoder_by_tiles_draws_the_same_picture_and_an_encoder_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of a picture lie near boundaries, where any rounding counts; colours do not."""
    decoder, encoder = Decoder((1, 1), 96, 1, 8), Encoder((1, 1), 96, 1, 8)
    randomize(decoder, 0)
    latent, seen = torch.randn(1, 8, 20, 20), torch.rand(1, 3, 40, 40)
    with torch.inference_mode():
        tiled, banded = picture(decoder, latent), picture(decoder, latent, whole=0, band=10**5)
        monkeypatch.setattr(winograd, "pays", lambda *_: False)
        plain = picture(decoder, latent)
        monkeypatch.setattr(winograd, "pays", lambda *_: pytest.fail("an encoder asked"))
        encoder(seen)
    assert not torch.equal(tiled, plain)
    assert (tiled - plain).abs().max() < 1e-4 * plain.std() and (banded - plain).abs().max() < 1e-4 * plain.std()
