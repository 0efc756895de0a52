"""HART: sizes, text and parts of the network."""

import math
from dataclasses import replace

import pytest
import torch

from stagevar.engine.contract.block import BlockContext
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale
from stagevar.errors import MissingFileError, PromptError
from stagevar.families import catalogue
from stagevar.families.hart.blocks import grid_factors, grid_positions, mix_halves, pooled_text, text_factors
from stagevar.families.hart.network import Hart
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import Request

from .hart_parts import PROMPTS, draw, recorder


@pytest.fixture(scope="module")
def model():
    return tiny("hart", seed=3)


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
