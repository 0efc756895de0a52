"""Switti: its block against the formula, both published forms, conditions, sampling settings and checkpoints."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from stagevar.engine.contract.block import BlockContext
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.errors import ForeignCheckpointError, MissingFileError, PromptError
from stagevar.families import catalogue
from stagevar.families.switti import names as switti_names
from stagevar.families.switti import sizes as switti
from stagevar.families.switti.names import CheckpointNames
from stagevar.families.switti.network import Switti, crop_numbers
from stagevar.families.switti.sizes import SIZES, adapt
from stagevar.families.tiny import tiny
from stagevar.loading.sources import load
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PROMPTS = ["a cat", "two big red dogs on a sofa"]


def tiny_switti(seed: int = 0, **changes: Any) -> Switti:
    made = tiny("switti", seed, **changes)
    assert isinstance(made, Switti)
    return made


@pytest.fixture(scope="module")
def model() -> Switti:
    return tiny_switti(seed=3)


# --- published models --------------------------------------------------------


@pytest.mark.parametrize(("name", "side", "guided"), [("switti", 512, 8), ("switti-1024-ar", 1024, 11)])
def test_published_sizes_and_their_sampling(name: str, side: int, guided: int) -> None:
    model = catalogue.bare(name)
    assert isinstance(model, Switti)
    count = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("tokenizer."))
    assert count / 1e9 == pytest.approx(2.47, abs=0.01)
    schedule = model.schedule()
    assert model.picture_size(schedule) == (side, side)
    assert model.causal == name.endswith("-ar")
    plan = Pipeline(model).prepare(Request("any")).plan
    last = len(plan) - 1
    for k, scale in enumerate(plan):
        early, mixed = k < guided, 2 <= k < guided
        assert scale.branch == ("both" if early else "cond")
        assert scale.guidance == pytest.approx(1 + 6 * k / last if early else 1)
        assert scale.temperature == (1.0 if early else 0.1)
        assert scale.smooth == (pytest.approx(k / last) if mixed else None)
        assert (scale.top_k, scale.top_p) == ((0, 1.0) if mixed else (400, 0.95))


def test_guidance_may_start_late() -> None:
    model = tiny_switti(guided=(2, 4))
    schedule = model.schedule()
    assert model.guidance_schedule(5.0, schedule) == (1.0, 1.0, 3.0, 4.0, 1.0, 1.0)
    assert model.branches(schedule) == ("both",) * 4 + ("cond",) * 2


def test_a_request_overrides_the_sampling(model: Switti) -> None:
    def plan(**fields: Any) -> Plan:
        return Pipeline(model).prepare(Request("a cat", **fields)).plan

    drawn = plan(smooth=False)
    assert {scale.smooth for scale in drawn} == {None}
    assert {(scale.top_k, scale.top_p) for scale in drawn} == {(40, 0.95)}
    assert {scale.top_k for scale in plan(top_k=1)} == {1}, "the most likely code is asked for, so nothing is opened"
    assert {scale.branch for scale in plan(guidance_scale=[2.0] * 6)} == {"both"}


# --- the network -------------------------------------------------------------


def test_a_block_follows_the_formula() -> None:
    """Modulated self-attention, cross-attention and gated perceptron, each between two norms, written out."""
    model = tiny_switti(seed=1, heads=4)
    text = model.encode_text(["a b c"])
    condition = model.condition(text, text)
    context = BlockContext(
        0, condition, model.rope(Scale(((1, 1), (2, 3)), 1)), lambda q, k, v, scale: attention(q, k, v)
    )
    x = torch.randn(2, 6, 64)
    block, own = model.layers[0], dict(model.layers[0].named_parameters())

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ own[f"{name}.weight"].T + own.get(f"{name}.bias", torch.zeros(()))

    def rms(name: str, h: Tensor) -> Tensor:
        return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * own[f"{name}.weight"]

    def heads(h: Tensor) -> Tensor:
        return h.reshape(*h.shape[:2], 4, 16).transpose(1, 2)

    def whole(h: Tensor) -> Tensor:
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def turned(h: Tensor) -> Tensor:
        assert context.rope is not None
        rotation = torch.complex(context.rope[..., 0], context.rope[..., 1])
        return torch.view_as_real(torch.view_as_complex(h.reshape(*h.shape[:3], -1, 2)) * rotation).flatten(3)

    def joined(h: Tensor) -> Tensor:
        return h.transpose(1, 2).flatten(2)

    crop = model.crop(torch.tensor([[512, 512, 0, 0]]))
    vectors = linear("attention.modulation", F.silu(condition.pooled + own["attention.crop_gain"] * crop))
    gain1, gain2, scale1, scale2, shift1, shift2 = (part[:, None] for part in vectors.chunk(6, -1))
    want = x
    q, k, v = linear("attention.qkv", rms("attention.norm", want) * (1 + scale1) + shift1).chunk(3, -1)
    mixed = attention(turned(heads(whole(q))), turned(heads(whole(k))), heads(v))
    want = want + gain1 * rms("attention.norm_out", linear("attention.proj", joined(mixed)))
    states = torch.stack(text.features * 2)
    k, v = linear("cross.kv", rms("cross.norm_text", states)).chunk(2, -1)
    q = whole(linear("cross.q", rms("cross.norm", want)))
    mixed = attention(heads(q), heads(whole(k)), heads(v))
    want = want + rms("cross.norm_out", linear("cross.proj", joined(mixed)))
    h = rms("feed_forward.norm", want) * (1 + scale2) + shift2
    h = linear("feed_forward.down", F.silu(linear("feed_forward.gate", h)) * linear("feed_forward.up", h))
    want = want + gain2 * rms("feed_forward.norm_out", h)
    torch.testing.assert_close(block(x, context), want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_a_scale_attends_to_itself_or_to_its_past_too(causal: bool) -> None:
    model = tiny_switti(causal=causal)
    seen: dict[int, int] = {}

    def look(name: str, k: int, tensor: Tensor) -> None:
        if name == "attended.0":
            seen[k] = tensor.shape[2]

    list(Pipeline(model).events([Request("a cat", seed=1)], tap=look))
    tokens = [h * w for h, w in model.schedule()]
    assert list(seen.values()) == ([sum(tokens[: k + 1]) for k in range(6)] if causal else tokens)


def test_blocks_may_be_bfloat16() -> None:
    model = tiny_switti(causal=True)
    exact = Pipeline(model)("a cat", seed=1, output_type="latent").images[0]
    model.blocks.to(torch.bfloat16)
    condition = model.condition(model.encode_text(PROMPTS))
    assert {condition.modulation[0].dtype, condition.text_kv[0][0].dtype} == {torch.float32, torch.bfloat16}
    rounded = Pipeline(model)("a cat", seed=1, output_type="latent").images[0]
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.5 * exact.abs().mean()


# --- conditions --------------------------------------------------------------


def test_sizes_and_crops_of_training_pictures() -> None:
    heights, widths = torch.tensor([512, 600, 700, 300, 1024]), torch.tensor([512, 512, 1024, 901, 700])
    want = [[512, 512, 0, 0], [600, 512, 44, 0], [512, 748, 0, 118], [512, 1537, 0, 512], [748, 512, 118, 0]]
    assert crop_numbers(heights, widths).tolist() == want


def test_the_crop_reaches_the_blocks_but_not_the_head(model: Switti) -> None:
    text = model.encode_text(PROMPTS)
    plain = model.condition(text)
    cut = model.cropped_condition(text, None, torch.tensor([[700, 512, 90, 0]] * 4))
    assert torch.equal(plain.pooled, cut.pooled)
    assert not torch.equal(plain.modulation[0], cut.modulation[0])


def test_the_null_text_is_the_empty_prompt_unless_a_negative_one_is_given(model: Switti) -> None:
    text, other = model.encode_text(PROMPTS), model.encode_text(["blurry picture"])
    empty = model.encode_text(["", ""])
    plain, mixed = model.condition(text), model.condition(text, other.spread([1], 2))
    torch.testing.assert_close(plain.pooled, model.condition(text, empty).pooled)
    assert torch.equal(mixed.pooled[:3], plain.pooled[:3])
    assert not torch.equal(mixed.pooled[3], plain.pooled[3])
    assert plain.text_mask is not None
    assert plain.text_mask.sum(1).tolist() == [4, 9, 2, 2]


def test_what_text_is_lacking_is_said(model: Switti) -> None:
    text = model.encode_text(PROMPTS)
    with pytest.raises(PromptError, match="pooled"):
        model.condition(Text(text.features))
    with torch.device("meta"):
        bare = Switti(model.config)
    with pytest.raises(MissingFileError, match="no text encoder"):
        bare.encode_text(["a cat"])


# --- checkpoints -------------------------------------------------------------


def test_names_of_published_tensors() -> None:
    names = CheckpointNames()
    assert names.rename("switti.blocks.12.ada_lin.1.weight") == "blocks.12.attention.modulation.weight"
    assert names.rename("switti.blocks.0.crop_cond_scales") == "blocks.0.attention.crop_gain"
    assert names.rename("switti.blocks.1.attention_y_norm.weight") == "blocks.1.cross.norm_text.weight"
    assert names.rename("switti.head_nm.ada_lin.1.bias") == "head.modulation.bias"
    assert names.rename("switti.head.bias") == "head.proj.bias"
    assert names.rename("switti.attn_bias_for_masking") is None
    assert names.rename("vae.quantize.embedding.weight") == "tokenizer.codebook.weight"
    assert names.rename("vae.encoder.conv_in.weight") is None
    assert names.rename("switti.mystery.weight") == "mystery.weight"


def official(model: Switti) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of network and tokenizer as their authors name and shape them."""
    network, tokenizer = {}, {}
    block = {new: old for old, new in switti_names._BLOCK.items()}
    top = {new: old for old, new in switti_names._TOP.items()}
    for name, tensor in model.state_dict().items():
        if name.startswith("tokenizer."):
            key = name.removeprefix("tokenizer.").replace("codebook", "quantize.embedding")
            tokenizer[key.replace("convolutions.", "quantize.quant_resi.qresi_ls.")] = tensor
        elif name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            old = next(rest.replace(new, old, 1) for new, old in block.items() if f"{rest}.".startswith(f"{new}."))
            network[f"blocks.{number}.{old}"] = tensor[None] if old == "crop_cond_scales" else tensor
        else:
            old = next(name.replace(new, old, 1) for new, old in top.items() if f"{name}.".startswith(f"{new}."))
            network[old] = tensor[None, None] if old == "pos_start" else tensor
    return network, tokenizer


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Switti, Path]:
    """A tiny model, and a folder with its files in the layout of the hub; the table of sizes describes it."""
    model = tiny_switti(seed=5, width=128, depth=2, heads=2, causal=True)
    network, tokenizer = official(model)
    settings = {"depth": 2, "rope_size": 128, "rope_theta": 10000, "use_ar": True, "reso": 512}
    for repository in SIZES["switti"].text:
        (tmp_path / repository.split("/")[1]).mkdir()
    for folder, state in (("Switti", network), ("VQVAE-Switti", tokenizer)):
        (tmp_path / folder).mkdir()
        save_file(state, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text(json.dumps(settings))
    config = replace(model.config, causal=False, depth=30, width=1920, heads=30)
    monkeypatch.setitem(SIZES, "switti", replace(SIZES["switti"], config=config, defaults=model.defaults))
    monkeypatch.setitem(
        catalogue.FAMILIES, "switti", replace(switti.FAMILY, text=lambda folders, **_: model.text_encoder)
    )
    return model, tmp_path


def test_a_published_model_is_loaded_as_its_config_says(published: tuple[Switti, Path]) -> None:
    model, folder = published
    loaded = load("switti", weights=folder)
    assert isinstance(loaded, Switti)
    assert loaded.config == model.config
    want, found = (Pipeline(one)("a cat", seed=1, output_type="latent").images[0] for one in (model, loaded))
    assert torch.equal(want, found)


def test_a_variant_that_was_never_published_is_refused() -> None:
    with pytest.raises(ForeignCheckpointError, match="use_crop_cond"):
        adapt(switti.SwittiConfig(), {"use_crop_cond": False})


def test_a_run_of_given_noise_is_smoothed_over_all_codes(model: Switti) -> None:
    schedule = model.schedule()
    plan = Pipeline(model).prepare(Request("any")).plan
    seen: dict[int, Tensor] = {}

    def look(name: str, k: int, tensor: Tensor) -> None:
        if name == "codes":
            seen[k] = tensor

    list(run(model, model.condition(model.encode_text(PROMPTS)), schedule, [plan] * 2, [1, 2], tap=look))
    assert [codes.is_floating_point() for codes in seen.values()] == [False, True, True, True, False, False]
    assert (seen[1] > 0).sum(-1).min() == model.config.tokenizer.codes


def test_the_example_runs_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["switti.py", "a cat", "--tiny", "--accelerator", "drop_last(1)"])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "switti.py"))
    with Image.open("switti.png") as picture:
        assert picture.size == (16, 16)
