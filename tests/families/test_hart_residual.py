"""HART: the continuous residual, and checkpoints."""

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.grids.grid import scales
from stagevar.engine.grids.noise import uniforms
from stagevar.engine.plan.plan import ScalePlan
from stagevar.errors import ForeignCheckpointError, OptionError
from stagevar.families import catalogue
from stagevar.families.hart import network
from stagevar.families.hart import sizes as hart
from stagevar.families.hart.config import HartConfig, config_of
from stagevar.families.hart.names import CheckpointNames
from stagevar.families.hart.network import Hart
from stagevar.families.hart.residual import Coefficients, waves
from stagevar.families.tiny import tiny
from stagevar.loading.fill import fill
from stagevar.loading.save import save_model
from stagevar.loading.sources import load

from .hart_parts import PROMPTS, draw, head, recorder

SETTINGS = {
    "attn_type": "llama",
    "mlp_type": "llama",
    "disable_aln": True,
    "shared_aln": False,
    "attn_l2_norm": True,
    "use_timestep_embed": True,
    "sep_aln_pooling_mode": "max",
    "use_context_norm": True,
    "use_cross_attn": False,
    "context_token": 12,
    "context_dim": 24,
    "patch_nums": [1, 2, 3, 4, 6, 8],
    "depth": 3,
    "embed_dim": 64,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "norm_eps": 1e-6,
    "diff_width": 32,
    "diff_depth": 2,
    "num_sampling_steps": "4",
}


@pytest.fixture(scope="module")
def model():
    return tiny("hart", seed=3)


# --- residual ----------------------------------------------------------------


def test_coefficients_are_those_of_the_shortened_cosine_process():
    c = Coefficients.of(8)
    assert c.timesteps == (0, 143, 285, 428, 571, 714, 856, 999)
    left = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    assert c.alphas_cumprod[:-1] == pytest.approx([left[t + 1] / left[0] for t in c.timesteps[:-1]], rel=1e-9)
    assert Coefficients.of(3).timesteps == (0, 500, 999)
    assert c.posterior_mean_coef1[0] == 1 and c.posterior_mean_coef2[0] == 0
    for steps in (1, 1001):
        with pytest.raises(ValueError, match="2 to 1000 steps"):
            Coefficients.of(steps)


def test_waves_begin_with_cosines():
    assert waves(torch.tensor(0)).tolist() == [1.0] * 128 + [0.0] * 128
    assert waves(torch.tensor([3, 4])).shape == (2, 256)
    torch.testing.assert_close(waves(torch.tensor(3))[[0, 128]], torch.tensor([math.cos(3), math.sin(3)]))


def test_the_residual_is_drawn_per_image_and_guided():
    made = head()
    states, noise = torch.randn(4, 6, 16), torch.randn(2, 6, 5, 4)
    both = made.draw(states, noise, [1.5, 3.0])
    assert both.shape == (2, 6, 4) and both.abs().max() <= 1
    for i in range(2):
        alone = made.draw(states[[i, i + 2]], noise[[i]], [[1.5, 3.0][i]])
        torch.testing.assert_close(both[[i]], alone, atol=1e-3, rtol=0)
    assert not torch.allclose(both, made.draw(states, noise, [1.0, 1.0]), atol=1e-2)


@pytest.mark.parametrize(("rows", "weight"), [(slice(0, 2), 1.0), (slice(2, 4), 0.0)])
def test_one_branch_is_guidance_one_or_zero(rows, weight):
    made = head()
    states, noise = torch.randn(4, 6, 16), torch.randn(2, 6, 5, 4)
    single = made.draw(states[rows], noise, [7.0, 7.0])
    torch.testing.assert_close(single, made.draw(states, noise, [weight] * 2), atol=1e-3, rtol=0)


def test_the_last_step_takes_no_noise():
    made = head(2)
    states, noise = torch.randn(1, 3, 16), torch.randn(1, 3, 2, 4)
    drawn = made.draw(states, noise, [1.0])
    assert not torch.equal(drawn, made.draw(states, noise.flip(2), [1.0]))
    c = made.coefficients
    x = noise[:, :, 0]
    for i, t in ((1, 999), (0, 0)):
        error, place = made(x, torch.tensor(t), states).chunk(2, -1)
        clean = (x - math.sqrt(1 - c.alphas_cumprod[i]) * error) / math.sqrt(c.alphas_cumprod[i])
        x = c.posterior_mean_coef1[i] * clean.clamp(-1, 1) + c.posterior_mean_coef2[i] * x
        if i:
            low, high = c.posterior_log_variance_clipped[i], math.log(c.betas[i])
            x = x + (0.5 * (low + (place + 1) / 2 * (high - low))).exp() * noise[:, :, 1]
    torch.testing.assert_close(drawn, x.float(), atol=1e-2, rtol=0)


def test_a_residual_is_added_behind_the_final_scale_only(model):
    tap, seen = recorder()
    full = draw(model, tap=tap)
    assert [k for name, k in seen if name == "residual"] == [5]
    residual, codes = seen["residual", 5], seen["codes", 5]
    assert 0.01 < residual.abs().max() <= network.RESIDUAL_UNIT
    vectors = model.tokenizer.codebook(codes).mT.unflatten(-1, (8, 8))
    torch.testing.assert_close(full, seen["latent", 4] + vectors + residual)
    dropped = draw(model, seeds=(7, 9))
    assert torch.equal(full[0], dropped[0]) and not torch.equal(full[1], dropped[1])


def test_codes_alone_can_be_had(model):
    tap, seen = recorder()
    bare = tiny("hart", seed=3)
    bare.refined = False
    full, coarse = draw(model, tap=tap), draw(bare)
    torch.testing.assert_close(coarse + seen["residual", 5], full)
    assert bare.finishing(scales(bare.schedule())[5]) == () and len(model.finishing(scales(model.schedule())[5])) == 6


def test_the_residual_of_mixed_codes_depends_on_the_likeliest(model):
    tap, seen = recorder()
    draw(model, smooth=0.5, tap=tap)
    weights, x = seen["codes", 5], seen["block.2", 5]
    assert weights.shape == (2, 64, 64)
    condition = model.condition(model.encode_text(PROMPTS))
    plans = [ScalePlan(guidance=2.0)] * 2
    drawing = Drawing(scales(model.schedule())[5], condition, plans, (1, 2), uniforms)
    mixed, hard = (model.residual(x, codes, drawing) for codes in (weights, weights.argmax(-1)))
    assert torch.equal(mixed, hard)


def test_blocks_may_be_bfloat16():
    model = tiny("hart", modulation="table")
    model.blocks.to(torch.bfloat16)
    seen = {}
    latent = draw(model, tap=lambda name, k, x: seen.__setitem__(name, x.dtype))
    assert model.dtype == torch.bfloat16 and latent.isfinite().all()
    assert {seen[name] for name in ("embed", "block.2", "logits", "residual")} == {torch.float32}
    assert seen["attended.0"] == torch.bfloat16


@pytest.mark.parametrize("size", [(16, 16), (18, 12), (12, 24)])
def test_a_picture_does_not_depend_on_its_batch(model, size):
    together = draw(model, size=size, top_p=0.9)
    assert together.shape[-2:] == (size[0] // 2, size[1] // 2)
    for i in range(2):
        alone = draw(model, PROMPTS[i : i + 1], seeds=(7 + i,), size=size, top_p=0.9)
        torch.testing.assert_close(alone[0], together[i], atol=1e-3, rtol=0)


# --- checkpoints -------------------------------------------------------------


def theirs(model):
    """The tensors of both published files, spelled as there."""
    swaps = {
        "context.0.": "context_norm.",
        "context.1.": "context_embed.",
        "level.": "lvl_embed.",
        "word.": "word_embed.",
        "head.norm.": "head_nm.ln_wo_grad.",
        "head.modulation.": "head_nm.ada_lin.1.",
        "head.proj.": "head.",
        "residual_norm.": "decoder_norm.",
        "residual_head.time.": "diffloss.net.time_embed.mlp.",
        "residual_head.condition.": "diffloss.net.cond_embed.",
        "residual_head.input.": "diffloss.net.input_proj.",
        "residual_head.output.": "diffloss.net.final_layer.linear.",
        "residual_head.modulation.": "diffloss.net.final_layer.adaLN_modulation.1.",
    }
    inner = {
        ".norm.": ".ln_wo_grad.",
        ".attention.qkv.": ".attn.qkv_proj.",
        ".attention.": ".attn.",
        ".feed_forward.gate.": ".ffn.gate_proj.",
        ".feed_forward.up.": ".ffn.up_proj.",
        ".feed_forward.down.": ".ffn.down_proj.",
    }
    layer = {".norm.": ".in_ln.", ".up.": ".mlp.0.", ".down.": ".mlp.2.", ".modulation.": ".adaLN_modulation.1."}
    network, tokenizer = {}, {}
    for name, tensor in model.state_dict().items():
        if name.startswith("tokenizer."):
            key = name.removeprefix("tokenizer.").replace("codebook.", "quantize.embedding.")
            tokenizer["vae." + key.replace("convolutions.", "quantize.quant_resi.qresi_ls.")] = tensor.contiguous()
            continue
        if name.startswith("residual_head.layers."):
            name, swap = name.replace("residual_head.layers.", "diffloss.net.res_blocks."), layer
        else:
            swap = inner if name.startswith("blocks.") else {}
            prefix = next((p for p in swaps if name.startswith(p)), "")
            name = swaps.get(prefix, "") + name.removeprefix(prefix)
        for ours, published in swap.items():
            if ours in name:
                name = name.replace(ours, published)
                break
        if name.endswith("log_temperature"):
            name, tensor = name.replace("log_temperature", "scale_mul_1H11"), tensor.view(1, -1, 1, 1)
        network[name] = tensor
    network |= {"lvl_1L": torch.zeros(1, 3), "blocks.0.attn.zero_k_bias": torch.zeros(64)}
    tokenizer |= {"disc.main.0.weight": torch.zeros(2), "vae.decoder2.conv_in.bias": torch.zeros(2)}
    tokenizer |= {"vae.quant_conv.bias": torch.zeros(8), "vae.quantize.ema_vocab_hit_SV": torch.zeros(6, 64)}
    return network, tokenizer


def test_a_published_checkpoint_loads(tmp_path, monkeypatch):
    model = tiny("hart", 4)
    network, tokenizer = theirs(model)
    folder = tmp_path / "hart-0.7b-1024px"
    (folder / "llm").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    torch.save(network, folder / "llm" / "ema_model.bin")
    (folder / "llm" / "config.json").write_text(json.dumps(SETTINGS))
    save_file(tokenizer, folder / "tokenizer" / "model.safetensors")
    size = replace(hart.SIZES["hart-0.7b"], config=replace(HartConfig(), tokenizer=model.config.tokenizer))
    monkeypatch.setitem(hart.SIZES, "hart-0.7b", size)
    encoder = folder / hart.TEXT_ENCODER.split("/")[1]
    encoder.mkdir()
    folders = []
    row = replace(hart.FAMILY, text=lambda given, **_: folders.extend(given) or model.text_encoder)
    monkeypatch.setitem(catalogue.FAMILIES, "hart", row)
    loaded = load("hart-0.7b", weights=folder)
    assert folders == [encoder]
    assert loaded.config == replace(model.config, schedules=model.config.schedules[:1])
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(draw(model), draw(loaded), atol=1e-3, rtol=0)
    (folder / "llm" / "config.json").write_text(json.dumps(SETTINGS | {"depth": 2}))
    with pytest.raises(ForeignCheckpointError, match="left over"):
        load("hart-0.7b", weights=folder)
    (folder / "llm" / "config.json").write_text(json.dumps({"depth": 2}))
    with pytest.raises(ForeignCheckpointError, match=r"describes no HART \('"):
        load("hart-0.7b", weights=folder)


def test_every_switch_is_read_from_the_config(model):
    config = model.config
    assert config_of(SETTINGS, config.tokenizer) == replace(config, schedules=config.schedules[:1])
    changes = {
        "modulation": ({"shared_aln": True}, "table"),
        "text_norm": ({"use_context_norm": False}, False),
        "level_table": ({"use_timestep_embed": False}, True),
        "cosine": ({"attn_l2_norm": False}, False),
        "residual_steps": ({"num_sampling_steps": "20"}, 20),
        "pooling": ({"sep_aln_pooling_mode": "avg", "disable_aln": False, "shared_aln": True}, "avg"),
    }
    for name, (settings, value) in changes.items():
        assert getattr(config_of(SETTINGS | settings, config.tokenizer), name) == value
    assert config_of(SETTINGS | {"disable_aln": False, "shared_aln": True}, config.tokenizer).modulation == "layer"
    for settings in ({"use_cross_attn": True}, {"attn_type": "gpt2"}, {"mlp_type": "gpt2"}):
        with pytest.raises(OptionError, match=f"asks for {next(iter(settings))}"):
            config_of(SETTINGS | settings, config.tokenizer)


def test_unknown_tensors_are_named(model):
    names = CheckpointNames()
    assert names.rename("hart.blocks.2.scale_shift_table") == "modulation.tables.2"
    assert names.rename("blocks.2.ada_lin.1.bias") == "modulation.layers.2.bias"
    assert names.rename("hart.attn_bias_for_masking") is None and names.rename("vae.encoder.conv_in.bias") is None
    state = {"hart." + key: tensor for key, tensor in theirs(model)[0].items()} | theirs(model)[1]
    with torch.device("meta"):
        bare = Hart(model.config)
    with pytest.raises(ForeignCheckpointError, match=r"1 left over \(hart.mystery\)"):
        fill(bare, state | {"hart.mystery": torch.zeros(1)}, names.rename, names.reshape)


def test_a_model_can_be_written_and_read(tmp_path, model):
    save_model(model, tmp_path / "own", torch.float32)
    loaded = load(tmp_path / "own")
    loaded.text_encoder = model.text_encoder
    assert loaded.config == model.config and loaded.defaults == model.defaults
    torch.testing.assert_close(draw(model), draw(loaded), atol=1e-3, rtol=0)


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["hart.py", "a lighthouse", "--tiny"])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "hart.py"))
    with Image.open(tmp_path / "hart.png") as sheet:
        assert sheet.size == (32, 16)
    assert [line.split(" residual")[0] for line in capsys.readouterr().out.splitlines()] == ["with", "without"]
