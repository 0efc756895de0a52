import numpy as np
import pytest
import torch

from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.contract.sampling import draw, gumbel_mixture, keep_likely
from stagevar.engine.grids.grid import Scale
from stagevar.engine.grids.noise import uniforms
from stagevar.engine.loop.sample import sample
from stagevar.engine.plan.plan import ScalePlan


def drawn(logits, plans, seeds, k, tokens, index=None, noise=uniforms):
    """Codes of scale k, of so many tokens; nothing of a condition is read."""
    nothing = Condition(torch.zeros(len(plans), 1), torch.zeros(len(plans), 1))
    return sample(logits, Drawing(Scale(((1, tokens),) * (k + 1), k), nothing, plans, seeds, noise, index))


def test_noise_depends_on_seed_scale_and_position_only():
    long, short = uniforms(7, 3, (100,)), uniforms(7, 3, (40,))
    assert torch.equal(long[:40], short)
    assert torch.equal(uniforms(7, 3, (20, 5)).flatten(), long)
    assert not torch.equal(uniforms(8, 3, (40,)), short)
    assert not torch.equal(uniforms(7, 4, (40,)), short)


def test_noise_is_a_fixed_stream():
    expected = np.random.Philox(key=np.array([5, 2], dtype=np.uint64)).random_raw(3) >> np.uint64(41)
    assert uniforms(5, 2, (3,)).tolist() == (expected / 2**23).tolist()
    many = uniforms(0, 0, (10_000,))
    assert many.min() >= 0 and many.max() < 1


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_extreme_seeds_work(seed):
    assert uniforms(seed, 0, (4,)).std() > 0


def test_uniforms_are_uniform():
    counts = torch.histc(uniforms(1, 1, (100_000,)), bins=10, min=0, max=1)
    assert ((counts - 10_000).abs() < 500).all()


def test_draw_matches_the_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    codes = draw(logits.expand(50_000, 4), uniforms(3, 0, (50_000,)))
    share = torch.bincount(codes, minlength=4) / 50_000
    assert torch.allclose(share, logits.softmax(0), atol=0.01)
    assert share[3] == 0


def test_draw_at_the_ends_of_the_interval():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).repeat(2, 1)
    assert draw(logits, torch.tensor([0.0, 1 - 2.0**-23])).tolist() == [1, 2]


def draw_ref(logits, uniform):
    """Walk through the codes and subtract their mass."""
    probabilities = logits.double().softmax(-1)
    for code, mass in enumerate(probabilities.tolist()):
        uniform -= mass
        if uniform < 0:
            return code
    return len(probabilities) - 1


def test_draw_equals_its_reference():
    logits = torch.randn(300, 17, generator=torch.Generator().manual_seed(0))
    noise = uniforms(4, 4, (300,))
    assert draw(logits, noise).tolist() == [draw_ref(*pair) for pair in zip(logits, noise.tolist(), strict=True)]


def test_top_k_keeps_ties():
    assert torch.isfinite(keep_likely(torch.tensor([3.0, 2.0, 2.0, 1.0]), 2)).tolist() == [True, True, True, False]
    logits = torch.randn(3, 5)
    assert torch.equal(keep_likely(logits, 0), logits) and torch.equal(keep_likely(logits, 5), logits)


def test_top_p_drops_the_tail_and_keeps_the_largest():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert torch.isfinite(keep_likely(logits, top_p=0.8)).tolist() == [True, True, False, False]
    assert torch.isfinite(keep_likely(logits, top_p=0.01)).tolist() == [True, False, False, False]
    assert torch.equal(keep_likely(logits, top_p=1.0), logits)


def test_greedy_by_temperature_or_top_k():
    logits = torch.randn(2, 6, 9)
    for plan in (ScalePlan(temperature=0), ScalePlan(top_k=1)):
        assert torch.equal(drawn(logits, [plan, plan], [0, 1], 0, 6), logits.argmax(-1))
        assert not drawn(torch.zeros(1, 60, 9), [plan], [0], 0, 60).any(), "of equal codes the first"


def test_images_are_drawn_with_their_own_seed_and_filter():
    logits = torch.randn(3, 4, 5, 2)
    plans = [ScalePlan(), ScalePlan(top_p=0.6), ScalePlan(top_k=1)]
    together = drawn(logits, plans, [1, 2, 3], 2, 4)
    alone = [drawn(logits[i : i + 1], plans[i : i + 1], [i + 1], 2, 4) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_rows_at_an_index_get_the_noise_of_their_position():
    logits = torch.randn(1, 9, 5)
    index = torch.tensor([[1, 4, 8]])
    every = drawn(logits, [ScalePlan()], [3], 1, 9)
    some = drawn(logits[:, index[0]], [ScalePlan()], [3], 1, 9, index)
    assert torch.equal(some[0], every[0, index[0]])


def test_smoothed_sampling_gives_weights_over_the_codes_that_may_be_drawn():
    logits = torch.randn(2, 60, 9)
    plans = [ScalePlan(smooth=0.0, top_k=4), ScalePlan(smooth=1.0, top_k=4)]
    soft, sharp = drawn(logits, plans, [3, 3], 1, 60)
    assert soft.shape == (60, 9)
    assert torch.allclose(soft.sum(-1), torch.ones(60)) and torch.allclose(sharp.sum(-1), torch.ones(60))
    allowed = torch.isfinite(keep_likely(logits, 4))
    assert (soft[~allowed[0]] == 0).all() and (sharp[~allowed[1]] == 0).all()
    assert soft.amax(-1).mean() < 0.95 < sharp.amax(-1).mean()


def test_the_mixture_follows_its_formula():
    logits, gumbel = torch.randn(5, 9, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64)
    uniform = (-(-gumbel).exp()).exp()
    for r in (0.0, 0.4, 1.0):
        expected = ((logits * (1 + r) + gumbel) / max(0.27 * (1 - r * 0.95), 0.005)).softmax(-1)
        torch.testing.assert_close(gumbel_mixture(logits, r, uniform), expected)
    assert torch.isfinite(gumbel_mixture(torch.zeros(1, 1), 1.0, torch.zeros(1, 1))).all(), "a uniform number may be 0"


def test_the_likeliest_code_stays_one_code_when_smoothed():
    logits = torch.randn(1, 6, 9)
    for plan in (ScalePlan(temperature=0, smooth=0.5), ScalePlan(top_k=1, smooth=0.5)):
        weights = drawn(logits, [plan], [0], 0, 6)
        assert torch.equal(weights.argmax(-1), logits.argmax(-1)) and weights.sum() == 6


def test_smoothed_rows_get_the_noise_of_their_position_and_seed():
    logits, plan, index = torch.randn(2, 9, 5), ScalePlan(smooth=0.3), torch.tensor([[1, 4, 8], [0, 2, 3]])
    every = drawn(logits, [plan] * 2, [3, 4], 1, 9)
    rows = torch.stack([each[at] for each, at in zip(logits, index, strict=True)])
    some = drawn(rows, [plan] * 2, [3, 4], 1, 9, index)
    assert all(torch.equal(some[i], every[i][index[i]]) for i in range(2))
    given = drawn(logits, [plan] * 2, [3, 4], 1, 9, noise=lambda seed, scale, shape: torch.full(shape, 0.5))
    assert torch.allclose(given, gumbel_mixture(logits, 0.3, torch.full_like(logits, 0.5)))
