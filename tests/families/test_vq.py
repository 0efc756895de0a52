"""The vector-quantising tokenizer: residual convolutions, codes of rectangular pictures, names, stored outputs."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.families.tiny import randomize
from stagevar.families.tokenizers.autoencoder import Attention
from stagevar.families.tokenizers.vq import VQConfig, VQTokenizer, convolution_of
from stagevar.families.vq_names import vq_layout, vq_name
from stagevar.loading.fill import fill
from stagevar.loading.read import load_config, read_state
from stagevar.measure.conform.conform import Probe
from stagevar.measure.conform.vq import TOKENIZER, check_tokenizer, schedule_of, tokenizer_config

GOLDEN = Path(os.environ.get("STAGEVAR_GOLDEN") or Path(__file__).parents[1] / "golden")
SETS = [f for f in sorted(GOLDEN.iterdir()) if f.name.startswith(("var", "star", "switti", "hart"))]
SCHEDULES = [((1, 1), (2, 2), (3, 3), (4, 4)), ((1, 1), (2, 1), (3, 2), (6, 4)), ((1, 1), (1, 2), (2, 3), (3, 6))]
ids = pytest.mark.parametrize("schedule", SCHEDULES, ids=["square", "3:2", "1:2"])


@pytest.fixture(scope="module")
def tokenizer() -> VQTokenizer:
    made = VQTokenizer(VQConfig(32, (1, 2), 1, 8, 40, encoder=True))
    randomize(made, 0)
    return made


@pytest.mark.parametrize(
    ("scales", "expected"),
    [(10, "0011122333"), (14, "00011112222333"), (5, "01223"), (7, "0012233"), (6, "001233"), (1, "0")],
)
def test_ties_between_convolutions_are_decided_in_float64(scales: int, expected: str) -> None:
    assert "".join(str(convolution_of(k, scales, 4)) for k in range(scales)) == expected


def test_one_convolution_for_all_or_one_for_each() -> None:
    assert {convolution_of(k, 10, 1) for k in range(10)} == {0}
    assert [convolution_of(k, 6, 6) for k in range(6)] == list(range(6))


@ids
def test_pictures_become_codes_and_come_back(tokenizer: VQTokenizer, schedule: Schedule) -> None:
    h, w = schedule[-1]
    pictures = torch.rand(2, 3, 2 * h, 2 * w)
    codes = tokenizer.encode(pictures, schedule)
    assert [tuple(c.shape) for c in codes] == [(2, a * b) for a, b in schedule]
    latent = torch.stack([tokenizer.upsampled(c, Scale(schedule, k)) for k, c in enumerate(codes)]).sum(0)
    torch.testing.assert_close(tokenizer.quantize(tokenizer.features(pictures), schedule)[1][-1], latent)
    assert [len(tokenizer.scale_input(latent, Scale(schedule, k))[0]) for k in range(4)] == [a * b for a, b in schedule]
    decoded = tokenizer.decode(latent)
    assert decoded.shape == pictures.shape
    assert decoded.min() >= 0 and decoded.max() <= 1


def test_the_nearest_vector_is_taken(tokenizer: VQTokenizer) -> None:
    vectors = torch.randn(2, 5, 8)
    distances = (vectors[:, :, None] - tokenizer.codebook.weight).norm(dim=-1)
    assert torch.equal(tokenizer.nearest(vectors), distances.argmin(-1))


@ids
def test_weights_mix_the_codebook(tokenizer: VQTokenizer, schedule: Schedule) -> None:
    h, w = schedule[2]
    codes = torch.randint(40, (2, h * w))
    weights = nn.functional.one_hot(codes, 40).float()
    hard, soft = (tokenizer.upsampled(each, Scale(schedule, 2)) for each in (codes, weights))
    torch.testing.assert_close(hard, soft)
    half = tokenizer.upsampled(0.5 * weights, Scale(schedule, 2), phi=False)
    torch.testing.assert_close(2 * half, tokenizer.upsampled(codes, Scale(schedule, 2), phi=False))


def test_a_scale_is_resized_then_mended(tokenizer: VQTokenizer) -> None:
    """Bicubic to the final grid, half of it convolved; the last scale is not resized."""
    schedule = SCHEDULES[1]
    for k, convolution in enumerate((0, 1, 2, 3)):
        (h, w), codes = schedule[k], torch.randint(40, (2, math.prod(schedule[k])))
        x = tokenizer.codebook(codes).mT.reshape(2, 8, h, w)
        if k < 3:
            x = F.interpolate(x, (6, 4), mode="bicubic", align_corners=False, antialias=False)
        own = tokenizer.convolutions[convolution]
        want = 0.5 * x + 0.5 * F.conv2d(x, own.weight, own.bias, padding=1)
        torch.testing.assert_close(tokenizer.upsampled(codes, Scale(schedule, k)), want)


def test_attention_over_a_grid_written_out() -> None:
    part = Attention(32)
    randomize(part, 1)
    x = torch.randn(2, 32, 3, 5)
    q, k, v = F.conv2d(
        F.group_norm(x, 32, part.norm.weight, part.norm.bias, 1e-6), part.qkv.weight, part.qkv.bias
    ).chunk(3, 1)
    weights = torch.einsum("nchw,ncij->nhwij", q, k).div(32**0.5).flatten(3).softmax(-1).view(2, 3, 5, 3, 5)
    mixed = torch.einsum("nhwij,ncij->nchw", weights, v)
    torch.testing.assert_close(part(x), x + F.conv2d(mixed, part.proj_out.weight, part.proj_out.bias))
    wide = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(part(wide), part(x))


def test_only_the_coarsest_level_attends(tokenizer: VQTokenizer) -> None:
    at = {name.rsplit(".attn", 1)[0] for name in tokenizer.state_dict() if ".attn" in name}
    assert at == {"encoder.down.1", "encoder.mid", "decoder.up.1", "decoder.mid"}


def test_codes_at_some_positions(tokenizer: VQTokenizer) -> None:
    schedule = SCHEDULES[1]
    codes, index = torch.randint(40, (1, 24)), torch.tensor([[0, 7, 23]])
    every = torch.arange(24)[None]
    whole = tokenizer.upsampled(codes, Scale(schedule, 3))
    assert torch.equal(tokenizer.upsampled(codes, Scale(schedule, 3), every), whole)
    some = tokenizer.upsampled(codes[:, index[0]], Scale(schedule, 3), index, phi=False).flatten(2)
    assert torch.equal(some[0, :, index[0]].T, tokenizer.codebook(codes[0, index[0]]))
    assert some.abs().sum(1).count_nonzero() == 3


def test_without_an_encoder_nothing_is_encoded() -> None:
    with torch.device("meta"):
        half = VQTokenizer(VQConfig())
    assert not any(name.startswith(("encoder", "quant_conv")) for name in half.state_dict())
    with pytest.raises(ValueError, match="without its encoder"):
        half.encode(torch.rand(1, 3, 16, 16), ((1, 1),))


def test_names_of_published_tensors() -> None:
    for sharing in ("quantize.quant_resi.qresi_ls.2.bias", "quantize.quant_resi.2.bias"):
        assert vq_name(sharing, encoder=False) == "convolutions.2.bias"
    assert vq_name("quantize.quant_resi.qresi.weight", encoder=False) == "convolutions.0.weight"
    assert vq_name("quantize.ema_vocab_hit_SV", encoder=True) is None
    for key in ("encoder.conv_in.weight", "quant_conv.bias"):
        assert vq_name(key, encoder=False) is None
        assert vq_name(key, encoder=True) == key
    assert vq_name("mystery", encoder=True) == "mystery"
    weight = vq_layout("decoder.conv_in.weight", torch.rand(4, 4, 3, 3))
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_stored_outputs(folder: Path) -> None:
    weights: dict[str, Tensor] = read_state(folder / "weights.safetensors")
    probe = Probe(folder, load_config(folder), weights, read_state(folder / "io.safetensors"))
    config, schedule = tokenizer_config(probe), schedule_of(probe)
    with torch.device("meta"):
        tokenizer = VQTokenizer(config)
    own = {key.removeprefix(TOKENIZER): tensor for key, tensor in weights.items() if key.startswith(TOKENIZER)}
    fill(tokenizer, own, lambda key: vq_name(key, config.encoder), vq_layout)
    check_tokenizer(probe, tokenizer, schedule)
    phi = probe.config["derived"].get("phi_index_per_scale")
    assert phi in (None, [convolution_of(k, len(schedule), config.convolutions) for k in range(len(schedule))])
    assert [row.tensor for row in probe.rows if not row.ok] == []
