"""Infinity: sizes, rotary positions, bits, text rows, and the loop's promises on a small random network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.errors import MissingFileError, PromptError, SizeError
from stagevar.families.infinity.grids import BUDGETS, RATIOS, SCHEDULES, budget_schedule, reference_grid, rotary_table
from stagevar.families.infinity.names import CheckpointNames
from stagevar.families.infinity.network import Infinity
from stagevar.families.infinity.sizes import SIZES
from stagevar.families.tiny import tiny
from stagevar.families.tokenizers.bsq import BinaryTokenizer, TokenizerConfig
from stagevar.loading.fill import fill
from stagevar.loading.read import read_state

GOLDEN = Path(__file__).parents[1] / "golden" / "infinity_patchify"
PROMPTS = ("a cat", "two big red dogs on a very long sofa")
CPU = torch.device("cpu")


def tiny_infinity(seed: int = 0, **changes: Any) -> Infinity:
    made = tiny("infinity", seed, **changes)
    assert isinstance(made, Infinity)
    return made


@pytest.fixture(scope="module")
def model() -> Infinity:
    return tiny_infinity(seed=3)


def bits(
    model: Infinity,
    prompts: Sequence[str],
    seeds: Sequence[int],
    negative: Text | None = None,
    schedule: Schedule | None = None,
    **fields: object,
) -> list[Tensor]:
    """The bits (n, M, d) of every scale of one run."""
    schedule = schedule or model.schedule()
    plan = Plan.uniform(len(schedule), **({"guidance": 3.0, "temperature": 0.5, "top_p": 0.97} | fields))
    drawn: list[Tensor] = []

    def keep(name: str, k: int, tensor: Tensor) -> None:
        if name == "codes":
            drawn.append(tensor)

    with torch.inference_mode():
        condition = model.condition(model.encode_text(prompts), negative)
        plans = [plan] * len(prompts)
        for _ in run(model, condition, schedule, plans, seeds, tap=keep):
            pass
    return drawn


def equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- sizes -------------------------------------------------------------------


def test_sixty_sizes_have_sane_schedules() -> None:
    assert len(RATIOS) == 15
    assert len(SCHEDULES) == 60
    areas = {"0.06M": 256**2, "0.25M": 512**2, "0.60M": 768**2, "1M": 1024**2}
    for budget, length in BUDGETS.items():
        for ratio in RATIOS:
            schedule = budget_schedule(budget, ratio)
            h, w = schedule[-1]
            assert SCHEDULES[h, w] == schedule
            assert len(schedule) == length
            assert schedule[:2] == ((1, 1), (2, 2))
            assert all(a <= c and b <= d and a * b < c * d for (a, b), (c, d) in pairwise(schedule))
            assert 0.94 < 256 * h * w / areas[budget] < 1.26
            assert h / w == pytest.approx(ratio, rel=0.05)


def test_portrait_and_landscape_mirror_each_other() -> None:
    for ratio in (1.25, 1.333, 1.5, 1.75, 2.0, 2.5, 3.0):
        assert budget_schedule("1M", 1 / ratio) == tuple((w, h) for h, w in budget_schedule("1M", ratio))
    tokens = [sum(h * w for h, w in budget_schedule(budget)) for budget in BUDGETS]
    assert tokens == [521, 2521, 6425, 10521]


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name: str) -> None:
    with torch.device("meta"):
        model = Infinity(SIZES[name].config, name)
    billions = {"0.1b": 0.125, "0.4b": 0.36, "1b": 0.94, "2b": 2.20, "2.3b": 2.27, "4.7b": 4.7, "8.8b": 8.8}
    count = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("tokenizer."))
    assert count / 1e9 == pytest.approx(billions.get(name.removeprefix("infinity-"), 8.38), rel=0.03)
    side = 512 if name.endswith("-512") else 1024
    assert model.picture_size(model.schedule()) == (side, side)
    assert model.schedule(1024, 1024)[-1] == (64, 64)
    assert len(set(model.sizes())) == 60
    assert all(model.picture_size(model.schedule(h, w)) == (h, w) for h, w in model.sizes())


def test_a_size_outside_the_table_names_the_nearest(model: Infinity) -> None:
    assert model.schedule(32, 32) == budget_schedule("0.06M")
    for size in [(34, 32), (33, 32), (-2, 32), (100000, 1)]:
        with pytest.raises(SizeError, match=r"nearest are \d+x\d+, \d+x\d+, \d+x\d+$"):
            model.schedule(*size)
    with pytest.raises(SizeError, match="nearest are 32x32, 40x32, 32x40"):
        model.schedule(34, 34)


# --- rotary positions --------------------------------------------------------


def test_rotary_positions_round_half_to_even_towards_the_largest_grid() -> None:
    pairs = 8
    frequencies = torch.tensor([10000 ** (-j / 4) for j in range(4)])
    for schedule in RATIOS.values():
        for grid in schedule:
            table = rotary_table(grid, schedule[-1], pairs, CPU).view(*grid, pairs, 2)
            for axis, along in enumerate((table[:, 0, :4], table[0, :, 4:])):
                side, reference = grid[axis], schedule[-1][axis]
                position = torch.tensor([float(round(Fraction(i * reference, side))) for i in range(side)])
                angles = position[:, None] * frequencies
                torch.testing.assert_close(along, torch.stack([angles.cos(), angles.sin()], -1), atol=2e-5, rtol=0)


def test_rotary_rows_turn_the_first_half_of_the_pairs() -> None:
    table = rotary_table((3, 2), (6, 2), 4, CPU).view(3, 2, 4, 2)
    assert torch.equal(table[:, 0, :2], table[:, 1, :2])
    assert torch.equal(table[0, :, 2:], table[2, :, 2:])
    assert table[1, 0, 0, 1].item() == pytest.approx(torch.tensor(2.0).sin().item())


def test_small_pictures_use_the_positions_of_the_largest() -> None:
    for full in RATIOS.values():
        for length in BUDGETS.values():
            assert reference_grid(full[:length]) == full[-1]
    assert reference_grid(((1, 1), (2, 2), (3, 4), (6, 8), (9, 12))) == (54, 72)
    assert reference_grid(((1, 1), (5, 5))) == (64, 64)


def test_a_fixed_reference_grid_wins() -> None:
    free, fixed = tiny_infinity(), tiny_infinity(rotary_reference=(16, 16))
    schedule = free.schedule()
    condition = free.condition(free.encode_text(PROMPTS))
    stretched, plain = free.rope(Scale(schedule, 6), condition), fixed.rope(Scale(schedule, 6), condition)
    assert free.rope(Scale(schedule, 6), condition) is stretched
    assert not torch.equal(stretched, plain)
    torch.testing.assert_close(plain, rotary_table((16, 16), (16, 16), 16, CPU))


# --- tokenizer ---------------------------------------------------------------


def small_tokenizer(fold: int) -> BinaryTokenizer:
    return tiny_infinity(tokenizer=TokenizerConfig(3, fold, 4, 32, (1, 1, 2), (1, 1, 2), 1)).tokenizer


@pytest.mark.parametrize("fold", [1, 2])
def test_pictures_become_bits_and_a_latent(fold: int) -> None:
    tokenizer, schedule = small_tokenizer(fold), ((1, 1), (2, 1), (4, 3))
    pictures = torch.rand(2, 3, 4 * fold * 4, 4 * fold * 3)
    codes, latent = tokenizer.encode(pictures, schedule)
    assert [tuple(c.shape) for c in codes] == [(2, h * w, 3 * fold**2) for h, w in schedule]
    assert latent.shape == (2, 3, 4 * fold, 3 * fold)
    assert set(torch.cat([c.flatten() for c in codes]).tolist()) == {0, 1}
    torch.testing.assert_close(tokenizer.accumulate(codes, schedule), latent)
    decoded = tokenizer.decode(latent)
    assert decoded.shape == pictures.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_more_scales_approximate_a_latent_better() -> None:
    tokenizer, schedule = small_tokenizer(1), budget_schedule("0.06M")
    features = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4), (16, 16), mode="bicubic")
    codes, _ = tokenizer.quantize(features, schedule)
    errors = [(tokenizer.accumulate(codes[:k], schedule) - features).square().mean() for k in range(1, 8)]
    assert errors[-1] < 0.7 * errors[0]


def test_a_folded_token_lists_channel_then_row_then_column() -> None:
    tokenizer = small_tokenizer(2)
    one_hot = torch.zeros(1, 1, 12)
    one_hot[0, 0, 1 * 4 + 1 * 2 + 0] = 1
    unfolded = tokenizer.unfold(one_hot, (1, 1))
    assert unfolded[0, 1, 1, 0] == 1
    assert unfolded.sum() == 1
    assert torch.equal(tokenizer.fold(unfolded), one_hot)


def test_half_a_tokenizer_says_what_it_lacks() -> None:
    config = TokenizerConfig(bits=4, stride=2, base=32, encoder=None, decoder=None)
    tokenizer = BinaryTokenizer(config)
    with pytest.raises(ValueError, match="without its encoder"):
        tokenizer.encode(torch.rand(1, 3, 2, 2), ((1, 1),))
    with pytest.raises(ValueError, match="without its decoder"):
        tokenizer.decode(torch.zeros(1, 4, 1, 1))


# --- text --------------------------------------------------------------------


def test_null_rows_are_as_long_as_their_prompts(model: Infinity) -> None:
    text = model.encode_text(PROMPTS)
    condition = model.condition(text)
    lengths = [len(states) for states in text.features]
    assert condition.text_mask is not None
    assert condition.text_mask.sum(1).tolist() == lengths * 2
    alone, _, _ = model.read_text([model.null_text[: lengths[0]]])
    torch.testing.assert_close(condition.pooled[2:3], alone)
    assert model.condition(model.encode_text(PROMPTS[:1] * 2)).text_mask is None


def test_a_negative_prompt_replaces_the_null_text_unless_empty(model: Infinity) -> None:
    text = model.encode_text(PROMPTS)
    other = model.encode_text(["blurry picture"]).features[0]
    plain = model.condition(text)
    mixed = model.condition(text, Text((other, other[:0])))
    torch.testing.assert_close(mixed.pooled[2:3], model.read_text([other])[0])
    torch.testing.assert_close(mixed.pooled[[0, 1, 3]], plain.pooled[[0, 1, 3]])


def test_unfit_prompts_are_refused(model: Infinity) -> None:
    channels = model.config.text_channels
    for length in (0, 17):
        with pytest.raises(PromptError, match=f"{length} text tokens.*1 to 16"):
            model.condition(Text((torch.zeros(length, channels),)))
    for prompt in ("", "word " * 17):
        with pytest.raises(PromptError, match="1 to 16"):
            model.encode_text([prompt])
    with torch.device("meta"):
        bare = Infinity(model.config)
    with pytest.raises(MissingFileError, match="no text encoder"):
        bare.encode_text(["a cat"])


# --- the loop's promises -----------------------------------------------------


@pytest.mark.parametrize("folded", [False, True])
def test_a_picture_does_not_depend_on_its_batch(folded: bool) -> None:
    changes = {"tokenizer": TokenizerConfig(2, 2, 1, 32, (1,), (1,), 1)} if folded else {}
    model = tiny_infinity(seed=5, **changes)
    schedule = budget_schedule("0.06M", 0.75)
    together = bits(model, PROMPTS, [7, 8], schedule=schedule)
    for i in range(2):
        alone = bits(model, PROMPTS[i : i + 1], [7 + i], schedule=schedule)
        assert equal(alone, [codes[i : i + 1] for codes in together])
    assert not torch.equal(together[-1][0], together[-1][1])


def test_prompt_seed_and_negative_prompt_all_matter(model: Infinity) -> None:
    plain = bits(model, PROMPTS[:1], [1])
    assert equal(plain, bits(model, PROMPTS[:1], [1]))
    assert not equal(plain, bits(model, PROMPTS[1:], [1]))
    assert not equal(plain, bits(model, PROMPTS[:1], [2]))
    negative = model.encode_text(["blurry"])
    assert not equal(plain, bits(model, PROMPTS[:1], [1], negative))
    assert equal(plain, bits(model, PROMPTS[:1], [1], Text((negative.features[0][:0],))))


def test_one_branch_equals_guidance_one_or_zero(model: Infinity) -> None:
    for branch, guidance in (("cond", 1.0), ("null", 0.0)):
        single = bits(model, PROMPTS, [1, 2], branch=branch)
        assert equal(single, bits(model, PROMPTS, [1, 2], guidance=guidance))
        assert not equal(single, bits(model, PROMPTS, [1, 2]))


def test_guidance_inside_the_network(model: Infinity) -> None:
    middle = bits(model, PROMPTS, [1, 2], guidance_layer=-2)
    assert not equal(middle, bits(model, PROMPTS, [1, 2]))
    assert equal(middle, bits(model, PROMPTS, [1, 2], guidance_layer=2))
    assert equal(
        bits(model, PROMPTS, [1, 2], guidance_layer=-2, guidance=1.0), bits(model, PROMPTS, [1, 2], branch="cond")
    )


def test_blocks_may_be_bfloat16() -> None:
    model = tiny_infinity()
    model.blocks.to(torch.bfloat16)
    seen: dict[str, torch.dtype] = {}
    schedule = model.schedule()
    with torch.inference_mode():
        condition = model.condition(model.encode_text(PROMPTS))
        plans = [Plan.uniform(len(schedule), guidance=2.0)] * 2
        *_, last = run(model, condition, schedule, plans, [0, 1], tap=lambda n, k, x: seen.__setitem__(n, x.dtype))
        picture = model.decode(last.latent)
    assert model.dtype == torch.bfloat16
    assert condition.text_kv[0][0].dtype == torch.bfloat16
    wide = {condition.modulation[0].dtype, seen["embed"], seen["block.3"], seen["logits"], picture.dtype}
    assert wide == {torch.float32}


# --- checkpoints -------------------------------------------------------------


def respell(key: str) -> str:
    """The other spelling of a published key: no wrapping level, blocks without chunks."""
    key = re.sub(r"(conv\w*|norm\w*|nin_shortcut)\.(?:conv|norm)\.(weight|bias)$", r"\1.\2", key)
    return re.sub(
        r"block_chunks\.(\d+)\.module\.(\d+)\.", lambda found: f"blocks.{int(found[1]) + int(found[2])}.", key
    )


def test_both_spellings_and_layouts_of_a_checkpoint_fill_the_same_network() -> None:
    state = read_state(GOLDEN / "weights.safetensors")
    halves: dict[str, dict[str, Tensor]] = {"infinity": {}, "vae": {}}
    for key, tensor in state.items():
        half, _, rest = key.partition(".")
        halves[half][respell(rest)] = tensor.transpose(1, 2) if "scale_mul" in key else tensor
    halves["vae"]["quantize.lfq.mask"] = torch.zeros(14)
    halves["infinity"]["cfg_uncond"] = torch.cat([halves["infinity"]["cfg_uncond"], torch.ones(3, 256)])
    tokenizer = TokenizerConfig(14, 2, 2, 32, (1, 2), (1, 2), 1)
    config = replace(tiny_infinity().config, depth=2, heads=4, tokenizer=tokenizer, text_channels=256, text_length=10)
    filled = []
    respelled = {f"{half}.{key}": tensor for half, part in halves.items() for key, tensor in part.items()}
    for tensors in (state, respelled):
        with torch.device("meta"):
            model = Infinity(config)
        names = model.checkpoint_names
        fill(model, tensors, names.rename, names.reshape)
        filled.append(model.state_dict())
    assert len(filled[0]) > 100
    assert all(torch.equal(tensor, filled[1][name]) for name, tensor in filled[0].items())


def test_names_of_published_tensors() -> None:
    names = CheckpointNames(blocks_per_chunk=4, null_rows=512, halves=("decoder",))
    assert names.rename_network("block_chunks.3.module.2.sa.scale_mul_1H11") == "blocks.14.attention.log_temperature"
    assert names.rename_network("block_chunks.1.module.0.ada_gss") == "modulation.tables.4"
    assert names.rename_network("block_chunks.1.module.0.ca.zero_k_bias") is None
    assert names.rename_network("head_nm.ada_lin.1.weight") == "head.modulation.weight"
    assert names.rename_network("mystery.weight") == "mystery.weight"
    assert names.rename_tokenizer("encoder.conv_in.conv.weight") is None
    assert names.rename_tokenizer("quantizer.lfq.mask") is None
    for key in ("decoder.up.1.upsample.conv.conv.bias", "decoder.up.1.upsample.conv.bias"):
        assert names.rename_tokenizer(key) == "tokenizer.decoder.up.1.upsample.conv.bias"
