"""Infinity: sizes, rotary positions and tokenizer."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from stagevar.engine.grids.grid import Scale
from stagevar.errors import SizeError
from stagevar.families.infinity.grids import BUDGETS, RATIOS, SCHEDULES, budget_schedule, reference_grid, rotary_table
from stagevar.families.infinity.network import Infinity
from stagevar.families.infinity.sizes import SIZES
from stagevar.families.tokenizers.bsq import BinaryTokenizer, TokenizerConfig

from .infinity_parts import PROMPTS, tiny_infinity

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Infinity:
    return tiny_infinity(seed=3)


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
    with pytest.raises(SizeError, match="nearest are 32x32, 32x40, 40x32"):
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


def test_the_encoder_reads_pictures_from_minus_one_to_one() -> None:
    tokenizer, schedule, pictures = small_tokenizer(1), ((1, 1), (4, 4)), torch.rand(1, 3, 16, 16)
    assert tokenizer.encoder is not None
    _, latent = tokenizer.encode(pictures, schedule)
    assert torch.equal(latent, tokenizer.quantize(tokenizer.encoder(2 * pictures - 1), schedule)[1])
    assert not torch.equal(latent, tokenizer.quantize(tokenizer.encoder(2 * pictures), schedule)[1])


def test_what_is_left_of_a_feature_is_one_bit_by_its_sign_and_zero_is_no_positive_number() -> None:
    features = torch.tensor([-0.5, 0.0, 0.5]).view(1, 3, 1, 1)
    bits, latent = small_tokenizer(1).quantize(features, ((1, 1), (1, 1)))
    assert [each.flatten().tolist() for each in bits] == [[0, 0, 1], [1, 1, 0]]
    torch.testing.assert_close(latent.flatten(), torch.zeros(3))


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
