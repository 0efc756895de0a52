"""HART: text as first scale, levels, rotary factors, modulation, residual, settings, checkpoints."""

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stagevar.engine.contract.block import BlockContext
from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, scales
from stagevar.engine.grids.noise import uniforms
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.errors import ForeignCheckpointError, MissingFileError, OptionError, PromptError
from stagevar.families import catalogue
from stagevar.families.hart import network
from stagevar.families.hart import sizes as hart
from stagevar.families.hart.blocks import grid_factors, grid_positions, mix_halves, pooled_text, text_factors
from stagevar.families.hart.config import HartConfig, config_of
from stagevar.families.hart.names import CheckpointNames
from stagevar.families.hart.network import Hart
from stagevar.families.hart.residual import Coefficients, ResidualHead, waves
from stagevar.families.tiny import randomize, tiny
from stagevar.loading.fill import fill
from stagevar.loading.folder import save_model
from stagevar.loading.sources import load
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PROMPTS = ["a cat", "two big red dogs on a sofa"]
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


def recorder():
    """A tap, and what it has been told."""
    seen = {}
    return lambda name, k, x: seen.__setitem__((name, k), x), seen


def draw(model, prompts=PROMPTS, seeds=(7, 8), negative=None, size=(None, None), tap=None, **fields):
    """Final latents of one run with codes drawn hard."""
    schedule = model.schedule(*size)
    plan = Plan.uniform(len(schedule), **({"guidance": 2.0} | fields))
    with torch.inference_mode():
        condition = model.condition(model.encode_text(prompts), negative)
        *_, last = run(model, condition, schedule, [plan] * len(prompts), seeds[: len(prompts)], tap=tap)
    return last.latent


# --- sizes and sampling ------------------------------------------------------


def test_the_published_size_and_its_sampling():
    model = catalogue.bare("hart-0.7b")
    assert catalogue.transformer_parameters(model) / 1e9 == pytest.approx(0.73, abs=0.03)
    assert model.picture_size(model.schedule()) == (1024, 1024)
    plan = Pipeline(model).prepare(Request("any")).plan
    assert [scale.top_k for scale in plan] == [600] * 7 + [300] * 7
    ramp = [1 + 4.5 * k / 13 for k in range(13)]
    assert [scale.guidance for scale in plan] == pytest.approx([*ramp, ramp[-1]])
    assert [scale.smooth for scale in plan] == pytest.approx([k / 13 for k in (*range(13), 12)])
    assert {(scale.top_p, scale.temperature, scale.branch) for scale in plan} == {(1.0, 1.0, "both")}
    own = Pipeline(model).prepare(Request("x", guidance_scale=2.0, top_k=5, smooth=False)).plan
    assert own[13].guidance == pytest.approx(1 + 2 * 12 / 13) and own[0].top_k == 5 and own[0].smooth is None


def test_a_config_without_sense_is_refused():
    for fields in (
        {"width": 30},
        {"modulation": "both"},
        {"pooling": "min"},
        {"residual_steps": 1},
        {"schedules": (((2, 2), (4, 4)),)},
    ):
        with pytest.raises(ValueError, match=r"\w+ \w+"):
            Hart(replace(tiny("hart").config, **fields))


# --- text --------------------------------------------------------------------


def test_the_null_text_is_zeros_with_one_real_position(model):
    condition = model.condition(model.encode_text(PROMPTS))
    blank = model.context(torch.zeros(12, 24))
    torch.testing.assert_close(condition.start[2], blank + model.level(torch.tensor(0)))
    assert condition.positions.tolist() == [[0, 1] + [1] * 10, [*range(7)] + [6] * 5, [0] * 12, [0] * 12]
    assert condition.modulation == ()
    torch.testing.assert_close(condition.pooled[1], condition.start[1].sub(model.level(torch.tensor(0))).amax(0))


def test_a_negative_prompt_takes_the_place_of_the_null_text(model):
    text, other = model.encode_text(PROMPTS), model.encode_text(["a wall"])
    mixed = model.condition(text, other.spread([1], 2))
    plain = model.condition(text)
    assert torch.equal(mixed.start[:3], plain.start[:3])
    torch.testing.assert_close(mixed.start[3], model.condition(other).start[0])
    assert mixed.positions[3].tolist() == [0] + [1] * 11
    assert not torch.equal(draw(model), draw(model, negative=other.spread([1], 2)))


def test_padding_counts_as_text_without_a_mask(model):
    """Its states are read; only the rotary positions stand still there."""
    text = model.encode_text(PROMPTS[:1])
    other = Text((torch.cat([text.features[0][:2], text.features[0][2:] + 1]),), masks=text.masks)
    first, second = (model.condition(each) for each in (text, other))
    assert torch.equal(first.positions, second.positions)
    assert not torch.equal(first.start, second.start)
    assert model.condition(Text(text.features)).positions[0].tolist() == list(range(12))


def test_texts_of_another_length_are_refused(model):
    with pytest.raises(PromptError, match="3 states; model hart-tiny reads exactly 12"):
        model.condition(Text((torch.zeros(3, 24),)))
    with torch.device("meta"):
        bare = Hart(model.config)
    with pytest.raises(MissingFileError, match="no text encoder"):
        bare.encode_text(["a cat"])


def test_the_last_text_position_stands_for_the_first_token(model):
    tap, seen = recorder()
    draw(model, tap=tap)
    assert seen["embed", 0].shape == seen["block.2", 0].shape == (4, 12, 64)
    assert seen["logits", 0].shape == (2, 1, 64)
    assert seen["attended.0", 2].shape[2] == 12 + 4 + 9
    condition = model.condition(model.encode_text(PROMPTS))
    rows = model.logits(seen["block.2", 0][:, -1:], condition, Scale(model.schedule(), 0))
    torch.testing.assert_close(seen["logits", 0], 2 * rows[:2] - rows[2:])


# --- parts -------------------------------------------------------------------


def test_picture_positions_are_fractions_of_the_final_grid_behind_the_text():
    places = grid_positions((2, 3), (6, 12), torch.tensor([0, 5]))
    assert places[0].tolist() == [[0, 0], [0, 4], [0, 8], [3, 0], [3, 4], [3, 8]]
    assert torch.equal(places[1], places[0] + 5)


def test_factors_pair_row_and_column_angles():
    """Channel i of the first half turns with the row, its partner i + D/2 with the column."""
    factors = grid_factors((2, 2), (4, 4), torch.tensor([3]), 8, 100.0)[0]
    frequencies = torch.tensor([1.0, 100 ** (-0.5)] * 2)
    for token, (row, column) in enumerate([(3, 3), (3, 5), (5, 3), (5, 5)]):
        angles = torch.cat([row * frequencies, column * frequencies])
        torch.testing.assert_close(factors[token], torch.stack([angles.cos(), angles.sin()], -1))
    x = torch.randn(1, 2, 4, 8)
    cos, sin = factors.unbind(-1)
    mixed = mix_halves(x, factors[None])
    torch.testing.assert_close(mixed[..., 1], x[..., 1] * cos[:, 1] - x[..., 5] * sin[:, 1])
    torch.testing.assert_close(mixed[..., 5], x[..., 5] * cos[:, 5] + x[..., 1] * sin[:, 5])
    assert not torch.allclose(mixed.norm(dim=-1), x.norm(dim=-1))


def test_text_factors_rotate():
    factors = text_factors(torch.tensor([[0, 1, 1]]), 8, 100.0)
    assert torch.equal(factors[0, 1], factors[0, 2])
    assert torch.equal(factors[:, :, :4], factors[:, :, 4:])
    torch.testing.assert_close(factors[0, 1, 1, 0].item(), math.cos(100 ** (-2 / 8)))
    x = torch.randn(1, 2, 3, 8)
    torch.testing.assert_close(mix_halves(x, factors).norm(dim=-1), x.norm(dim=-1))


def test_pooling_by_mean_masks_and_by_maximum_does_not():
    text, mask = torch.tensor([[[1.0], [2.0], [9.0]]]), torch.tensor([[True, True, False]])
    assert pooled_text(text, mask, "avg").item() == 1.5
    assert pooled_text(text, mask, "max").item() == 9.0
    assert pooled_text(text, torch.zeros(1, 3).bool(), "avg").item() == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"modulation": "table", "level_table": True, "text_norm": False},
        {"modulation": "layer", "pooling": "max", "cosine": False},
        {"modulation": "layer", "pooling": "avg"},
    ],
)
def test_every_variant_draws_and_uses_its_parameters(fields):
    model = tiny("hart", 1, **fields)
    together, plain = draw(model), draw(model, PROMPTS[1:], seeds=(8,))
    torch.testing.assert_close(together[1:], plain, atol=1e-3, rtol=0)
    for name, parameter in model.named_parameters():
        before = parameter.data
        parameter.data = before + 0.5 * torch.randn_like(before)
        noticed = name.startswith("tokenizer.") or not torch.equal(plain, draw(model, PROMPTS[1:], seeds=(8,)))
        parameter.data = before
        assert noticed, name


def test_modulation_follows_its_formula():
    model = tiny("hart", 1, modulation="table")
    condition = model.condition(model.encode_text(PROMPTS))
    x, block = torch.randn(4, 5, 64), model.blocks[1]
    _, gain2, _, scale2, _, shift2 = condition.modulation[1].unbind(1)
    norm = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * block.norm.weight
    h = norm * (1 + scale2[:, None]) + shift2[:, None]
    gate, up = h @ block.feed_forward.gate.weight.T, h @ block.feed_forward.up.weight.T
    want = gain2[:, None] * ((gate * gate.sigmoid() * up) @ block.feed_forward.down.weight.T)
    context = BlockContext(1, condition, None, lambda q, k, v, scale: v)
    torch.testing.assert_close(block.parts[1](x, context), want)
    tables = model.modulation.tables
    mean = model.context(model.encode_text(PROMPTS).features[0])[:2].mean(0)
    torch.testing.assert_close(condition.modulation[1][0], tables[1] + mean)


def one_pass(model, states, mask, codes, schedule):
    """Logits of all scales for one row of text, from a single pass with a mask by scale and explicit attention."""
    config, state = model.config, model.state_dict()
    hd = config.width // config.heads

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + config.eps).sqrt() * state[name]

    context = norm(states, "context.0.weight") @ state["context.1.weight"].T + state["context.1.bias"]
    latent, rows = model.empty_latent(1, schedule), [context + model.level(torch.tensor(0))]
    for k in range(1, len(schedule)):
        latent = model.add_codes(latent, codes[k - 1], schedule, k - 1)
        small = torch.nn.functional.adaptive_avg_pool2d(latent, schedule[k])[0].flatten(1).T
        rows.append(small @ state["word.weight"].T + state["word.bias"] + model.level(torch.tensor(k)))
    scale_of = torch.cat([torch.full((len(part),), k) for k, part in enumerate(rows)])
    visible = scale_of[:, None] >= scale_of
    positions = mask.long().cumsum(0) - 1
    angle = positions[:, None] * 10000.0 ** (-torch.arange(0, hd, 2) / hd)
    angles = [torch.cat([angle, angle], 1)]
    for h, w in schedule[1:]:
        frequencies = 10000.0 ** (-torch.arange(0, hd, 4) / hd)
        for y in range(h):
            for x in range(w):
                row = (y / h * schedule[-1][0] + positions[-1]) * frequencies
                column = (x / w * schedule[-1][1] + positions[-1]) * frequencies
                angles.append(torch.cat([row, row, column, column])[None])
    cos, sin = torch.cat(angles).cos(), torch.cat(angles).sin()
    x = torch.cat(rows)
    for i in range(config.depth):
        own = {name.removeprefix(f"blocks.{i}."): t for name, t in state.items() if name.startswith(f"blocks.{i}.")}
        h = norm(x, f"blocks.{i}.norm.weight")
        q, k, v = (h @ own["attention.qkv.weight"].T).view(len(x), 3, config.heads, hd).permute(1, 2, 0, 3)
        q, v = q + own["attention.q_bias"].view(-1, 1, hd), v + own["attention.v_bias"].view(-1, 1, hd)
        q, k = (t * cos + torch.cat([-t[..., hd // 2 :], t[..., : hd // 2]], -1) * sin for t in (q, k))
        scores = (q @ k.mT * 0.25 / hd**0.5).masked_fill(~visible, -torch.inf).softmax(-1)
        out = (scores @ v).transpose(0, 1).reshape(len(x), -1)
        x = x + out @ own["attention.proj.weight"].T + own["attention.proj.bias"]
        h = norm(x, f"blocks.{i}.norm.weight")
        gate = torch.nn.functional.silu(h @ own["feed_forward.gate.weight"].T)
        x = x + (gate * (h @ own["feed_forward.up.weight"].T)) @ own["feed_forward.down.weight"].T
    pooled = torch.nn.functional.silu(context.amax(0))
    scale, shift = (pooled @ state["head.modulation.weight"].T + state["head.modulation.bias"]).chunk(2)
    x = norm(x, "head.norm.weight") * (1 + scale) + shift
    return (x @ state["head.proj.weight"].T + state["head.proj.bias"])[config.text_length - 1 :]


@pytest.mark.parametrize("size", [(16, 16), (18, 12), (12, 24)])
def test_the_loop_agrees_with_one_masked_pass(size):
    """An independent way to the same logits: no cache, no split into scales."""
    model = tiny("hart", seed=3, cosine=False)
    schedule, text = model.schedule(*size), model.encode_text(PROMPTS)
    tap, seen = recorder()
    draw(model, size=size, branch="cond", tap=tap)
    for i in range(2):
        codes = [seen["codes", k][i : i + 1] for k in range(len(schedule))]
        want = one_pass(model, text.features[i], text.masks[i], codes, schedule)
        found = torch.cat([seen["logits", k][i] for k in range(len(schedule))])
        torch.testing.assert_close(found, want, atol=2e-4, rtol=1e-4)


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


def head(steps=5):
    made = ResidualHead(4, 16, 24, 2, steps)
    randomize(made, 2)
    return made


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
