"""STAR: the network and its shared cross-attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stagevar.engine.contract.block import BlockContext
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.errors import MissingFileError, PromptError
from stagevar.families import catalogue
from stagevar.families.star.attention import CosineCrossAttention, Sharing, StarCondition
from stagevar.families.star.network import Star
from stagevar.pipeline import Pipeline

from .star_parts import PROMPTS, SAMPLER, codes, equal, tiny_star


@pytest.fixture(scope="module")
def model() -> Star:
    return tiny_star(seed=3)


@pytest.fixture(scope="module")
def sampler() -> Star:
    return tiny_star(seed=4, sampler=SAMPLER)


# --- published models --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "side", "billions"),
    [
        ("star-256-d16", 256, 0.27),
        ("star-256", 256, 1.68),
        ("star-512", 512, 1.68),
        ("star-1024", 1024, 1.68),
        ("star-1024-sampler", 1024, 1.83),
    ],
)
def test_published_sizes(name: str, side: int, billions: float) -> None:
    model = catalogue.bare(name)
    assert isinstance(model, Star)
    assert catalogue.transformer_parameters(model) / 1e9 == pytest.approx(billions, abs=0.01)
    assert model.picture_size(model.schedule()) == (side, side)
    assert model.guidance_schedule(4.5, model.schedule())[-1] == 5.5
    assert (model.second is not None) == name.endswith("-sampler") == model.second_stage


# --- the network -------------------------------------------------------------


def test_rows_of_other_positions_attend_to_the_prompt_themselves() -> None:
    """The branches share cross-attention by row number, which means the same position only where rows are aligned."""
    model = tiny_star(seed=1)
    condition = model.condition(model.encode_text(["a b c"]))
    cross, plain = model.layers[0].get_submodule("cross"), torch.nn.functional.scaled_dot_product_attention
    x = torch.randn(2, 3, 64)
    shared, own = (cross(x, BlockContext(0, condition, None, plain, aligned)) for aligned in (True, False))
    assert torch.equal(shared[1], shared[0])
    null_alone = cross(x.flip(0), BlockContext(0, condition, None, plain))[0]
    torch.testing.assert_close(own[0], shared[0])
    torch.testing.assert_close(own[1], null_alone)


@pytest.mark.parametrize(("score", "aligned"), [("norm", False), ("distance", False), ("contrast", True)])
def test_the_loop_says_whether_the_branches_run_the_same_positions(
    score: Any, aligned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, told = tiny_star(), []
    attend = CosineCrossAttention.forward
    monkeypatch.setattr(
        CosineCrossAttention, "forward", lambda own, x, context: told.append(context.aligned) or attend(own, x, context)
    )
    plan = Plan.uniform(6, guidance=2.0).replace([4], tokens=Select(0.5, score, "nearest"))
    condition = model.condition(model.encode_text(["a b c"]))
    for step in run(model, condition, model.schedule(), [plan], [0]):
        assert set(told) == {aligned if step.scale == 4 else True}
        told.clear()


def test_a_block_follows_the_formula() -> None:
    """Self-attention, cross-attention and perceptron behind plain norms, written out for one picture's two rows."""
    model = tiny_star(seed=1, heads=4)
    text = model.encode_text(["a b c"])
    condition = model.condition(text)
    grid = model.config.schedules[1][2]
    rope = model.rope(Scale(model.config.schedules[1], 2))
    block, own = model.layers[0], dict(model.layers[0].named_parameters())
    own["attention.log_temperature"].data[0] = 9.0

    def normalised(h: Tensor) -> Tensor:
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def heads(h: Tensor) -> Tensor:
        return h.reshape(*h.shape[:2], 4, 16).transpose(1, 2)

    def attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        cosine = torch.nn.functional.cosine_similarity(q[..., :, None, :], k[..., None, :, :], -1)
        return ((cosine * temperature[:, None, None]).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def turned(h: Tensor) -> Tensor:
        rotation = torch.complex(rope[..., 0], rope[..., 1])
        return torch.view_as_real(torch.view_as_complex(h.reshape(*h.shape[:3], -1, 2)) * rotation).flatten(3)

    x = torch.randn(2, grid[0] * grid[1], 64)
    qkv = normalised(x) @ own["attention.qkv.weight"].T
    q, k, v = (heads(part) for part in qkv.chunk(3, -1))
    q, v = q + heads(own["attention.q_bias"][None, None]), v + heads(own["attention.v_bias"][None, None])
    temperature = own["attention.log_temperature"].exp().clamp(max=100)
    mixed = attention(turned(q), turned(k), v, temperature)
    want = x + mixed @ own["attention.proj.weight"].T + own["attention.proj.bias"]
    q = heads(normalised(want[:1]) @ own["cross.q.weight"].T + own["cross.q_bias"])
    k, v = (heads(part) for part in (text.features[0][None] @ own["cross.kv.weight"].T).chunk(2, -1))
    v = v + heads(own["cross.v_bias"][None, None])
    mixed = attention(q, k, v, own["cross.log_temperature"].exp())
    want = want + mixed @ own["cross.proj.weight"].T + own["cross.proj.bias"]
    h = normalised(want) @ own["feed_forward.up.weight"].T + own["feed_forward.up.bias"]
    h = torch.nn.functional.gelu(h, approximate="tanh")
    want = want + h @ own["feed_forward.down.weight"].T + own["feed_forward.down.bias"]
    plain = torch.nn.functional.scaled_dot_product_attention
    found = block(x, BlockContext(0, condition, rope, plain))
    torch.testing.assert_close(found, want, atol=2e-5, rtol=1e-4)


def test_blocks_may_be_bfloat16() -> None:
    model = tiny_star(sampler=SAMPLER)
    exact = Pipeline(model)("a cat", seed=1, output_type="latent").images[0]
    model.blocks.to(torch.bfloat16)
    assert model.second is not None
    model.second.blocks.to(torch.bfloat16)
    condition = model.condition(model.encode_text(PROMPTS))
    assert {each.dtype for each in condition.text_kv[0]} == {torch.bfloat16}
    rounded = Pipeline(model)("a cat", seed=1, output_type="latent").images[0]
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < exact.abs().mean()


# --- shared cross-attention --------------------------------------------------


def test_rows_keep_their_source_as_long_as_it_is_there() -> None:
    def sources(sharing: Sharing) -> list[int]:
        return sharing.readers[sharing.places].tolist()

    sharing = Sharing.of([0, 1, 2, 0, 1, 2], torch.device("cpu"))
    assert len(sharing.readers) == 3
    assert sources(sharing) == [0, 1, 2, 0, 1, 2]
    assert sources(sharing.take([1, 2, 4, 5])) == [0, 1, 0, 1]
    assert sources(sharing.take([3, 4, 5])) == [0, 1, 2]
    assert sources(sharing.take([2, 5, 3])) == [0, 0, 2]
    first = Sharing.of([0] * 4, torch.device("cpu"))
    assert sources(first.take([0, 1])) == [0, 0]


def test_a_condition_takes_its_sharing_along(model: Star) -> None:
    condition = model.condition(model.encode_text(PROMPTS[:2]))
    nulls = condition.take([2, 3])
    assert isinstance(nulls, StarCondition)
    assert nulls.sharing.readers.tolist() == [0, 1]
    assert torch.equal(nulls.text_kv[0][0], condition.text_kv[0][0][2:])


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("second_stage", [False, True])
def test_a_picture_does_not_depend_on_its_batch(model: Star, sampler: Star, size: int, second_stage: bool) -> None:
    drawing = sampler if second_stage else model
    together = codes(drawing, [7, 8, 9], size=size)
    for i in range(3):
        alone = codes(drawing, [7 + i], drawing.encode_text(PROMPTS[i : i + 1]), size=size)
        assert equal(alone, [each[i : i + 1] for each in together])
    assert not torch.equal(together[-1][0], together[-1][1])


def test_the_released_network_lets_all_rows_follow_the_first(model: Star) -> None:
    text = model.encode_text(PROMPTS[:2])
    released = codes(model, [7, 8], text, across_batch=True)
    ours = codes(model, [7, 8], text)
    assert equal([each[:1] for each in released], [each[:1] for each in ours])
    assert not equal([each[1:] for each in released], [each[1:] for each in ours])


def test_the_prompts_branch_alone_is_guidance_one(model: Star) -> None:
    assert equal(codes(model, [1, 2], branch="cond"), codes(model, [1, 2], guidance=1.0))


def test_the_null_branch_alone_takes_its_own_cross_attention(model: Star) -> None:
    null = model.encode_text([""])
    assert null.pooled is not None
    alone = codes(model, [1], branch="null")
    assert equal(alone, codes(model, [1], null, branch="cond"))
    assert not equal(alone, codes(model, [1], guidance=0.0))


def test_a_negative_prompt_acts_through_its_summary_alone(model: Star) -> None:
    text, other = model.encode_text(PROMPTS[:1]), model.encode_text(["blurry picture"])
    assert text.pooled is not None and other.pooled is not None
    plain = codes(model, [1], text)
    assert not equal(plain, codes(model, [1], text, other))
    assert equal(codes(model, [1], text, other), codes(model, [1], text, Text(text.features, other.pooled)))
    mixed = codes(model, [1, 2], negative=other.spread([1], 2))
    assert equal(plain, [each[:1] for each in mixed])


def test_what_text_is_lacking_is_said(model: Star) -> None:
    text = model.encode_text(PROMPTS)
    with pytest.raises(PromptError, match="pooled"):
        model.condition(Text(text.features))
    with torch.device("meta"):
        bare = Star(model.config)
    with pytest.raises(MissingFileError, match="no text encoder"):
        bare.condition(text)
    assert bare.text_encoder is None
