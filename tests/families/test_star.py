"""STAR: its block against the formula, shared cross-attention, the second stage, sizes and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stagevar.engine.contract.block import BlockContext
from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale
from stagevar.engine.grids.noise import uniforms
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.errors import MissingFileError, PromptError
from stagevar.families import catalogue
from stagevar.families.star import names as star_names
from stagevar.families.star import sizes as star
from stagevar.families.star.attention import CosineCrossAttention, Sharing, StarCondition
from stagevar.families.star.names import CheckpointNames
from stagevar.families.star.network import Star
from stagevar.families.star.second_stage import SamplerConfig, round_sizes
from stagevar.families.star.sizes import SIZES
from stagevar.families.text_encoders.clip import ClipEncoder
from stagevar.families.tiny import tiny
from stagevar.loading.sources import load
from stagevar.pipeline import Pipeline
from stagevar.request import Request

from .tiny_clip import build_tokenizer, randomized, settings

PROMPTS = ("a cat", "two big red dogs on a sofa", "snow")
SAMPLER = SamplerConfig(first=4, rounds=4, last_rounds=5, early=2, depth=2)


def tiny_star(seed: int = 0, **changes: Any) -> Star:
    made = tiny("star", seed, **changes)
    assert isinstance(made, Star)
    return made


@pytest.fixture(scope="module")
def model() -> Star:
    return tiny_star(seed=3)


@pytest.fixture(scope="module")
def sampler() -> Star:
    return tiny_star(seed=4, sampler=SAMPLER)


def codes(
    model: Star,
    seeds: Sequence[int],
    text: Text | None = None,
    negative: Text | None = None,
    size: int = 0,
    across_batch: bool = False,
    **fields: Any,
) -> list[Tensor]:
    """The codes (n, M) of every scale of one run."""
    schedule = model.config.schedules[size]
    guidance = model.guidance_schedule(4.5, schedule)
    plan = Plan.uniform(len(schedule), **({"guidance": guidance, "top_k": 40, "top_p": 0.8} | fields))
    drawn: list[Tensor] = []

    def keep(name: str, k: int, tensor: Tensor) -> None:
        if name == "codes":
            drawn.append(tensor)

    text = text or model.encode_text(PROMPTS[: len(seeds)])
    with torch.inference_mode():
        condition = model.condition(text, negative, across_batch=across_batch)
        for _ in run(model, condition, schedule, [plan] * len(seeds), seeds, tap=keep):
            pass
    return drawn


def equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


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

    sharing = Sharing.of(torch.tensor([0, 1, 2, 0, 1, 2]))
    assert len(sharing.readers) == 3
    assert sources(sharing) == [0, 1, 2, 0, 1, 2]
    assert sources(sharing.take(torch.tensor([1, 2, 4, 5]))) == [0, 1, 0, 1]
    assert sources(sharing.take(torch.tensor([3, 4, 5]))) == [0, 1, 2]
    assert sources(sharing.take(torch.tensor([2, 5, 3]))) == [0, 0, 2]
    first = Sharing.of(torch.zeros(4, dtype=torch.long))
    assert sources(first.take(torch.tensor([0, 1]))) == [0, 0]


def test_a_condition_takes_its_sharing_along(model: Star) -> None:
    condition = model.condition(model.encode_text(PROMPTS[:2]))
    nulls = condition.take(torch.tensor([2, 3]))
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


# --- the second stage --------------------------------------------------------


def test_rounds_reveal_few_tokens_first_and_all_in_the_end() -> None:
    for rounds in (2, 8, 15):
        for tokens in (16, 25, 54, 256, 4096):
            sizes = round_sizes(rounds, tokens)
            assert len(sizes) == rounds
            assert sum(sizes) == tokens
            assert min(sizes[:-1]) >= 1
            assert sizes[:-1] == sorted(sizes[:-1])


def test_the_second_stage_draws_from_its_first_scale_on(sampler: Star) -> None:
    rounds = codes(sampler, [1, 2])
    sampler.second_stage = False
    plain = codes(sampler, [1, 2])
    sampler.second_stage = True
    assert equal(plain[:4], rounds[:4])
    assert not torch.equal(plain[4], rounds[4])
    assert not equal(rounds, codes(sampler, [3, 4]))
    assert equal(rounds, codes(sampler, [1, 2]))
    assert all(each.min() >= 0 and each.max() < 64 for each in rounds)


def test_rounds_follow_the_procedure(sampler: Star) -> None:
    """One picture at the two last scales, token by token, as the authors' loop runs."""
    schedule, second = sampler.config.schedules[1], sampler.second
    assert second is not None
    condition = sampler.condition(sampler.encode_text(PROMPTS[:1]))
    for k in (4, 5):
        tokens, last = schedule[k][0] * schedule[k][1], k == 5
        x = torch.randn(2, tokens, 64)
        trunk = sampler.logits(x, condition, Scale(schedule, k))
        ramp = sampler.guidance_schedule(4.0, schedule)[k]
        plan = Plan.uniform(6, guidance=ramp, temperature=0.7)[k]
        trunk = (ramp * trunk[:1] + (1 - ramp) * trunk[1:]) / 0.7
        noise = uniforms(5, k, (tokens, 5, 2))
        found = sampler.draw(x, trunk, Drawing(Scale(schedule, k), condition, [plan], [5], uniforms))
        assert found is not None
        rope = sampler.rope(Scale(schedule, k))
        known: dict[int, int] = {}
        for t, size in enumerate(round_sizes(5 if last else 4, tokens)):
            vectors = torch.zeros(1, tokens, 8)
            for place, code in known.items():
                vectors[0, place] = sampler.tokenizer.codebook.weight[code]
            cond, null = second(x, vectors, condition, rope, k)
            law = trunk[0].softmax(-1) if t < 2 and not last else ((5 * cond - 4 * null) / 0.7).softmax(-1)
            drawn = [int((law[i].cumsum(0) <= noise[i, t, 0] * law[i].sum()).sum()) for i in range(tokens)]
            certainty = [law[i, drawn[i]].item() for i in range(tokens)]
            if t < 2 and not last:
                for place in sorted(range(tokens), key=certainty.__getitem__)[-size:]:
                    known.setdefault(place, drawn[place])
            order = noise[:, t, 1].tolist() if t < 2 else certainty
            unknown = [place for place in range(tokens) if place not in known]
            for place in sorted(unknown, key=order.__getitem__)[::-1][:size]:
                known[place] = drawn[place]
        assert [known[place] for place in range(tokens)] == found[0].tolist()


@pytest.mark.parametrize(
    "fields",
    [
        {"branch": "cond"},
        {"branch": "null"},
        {"temperature": 0.0},
        {"top_k": 1},
        {"guidance_layer": 1},
        {"tokens": [None] * 4 + [Select(0.5, restore_by="zero_code")] * 2},
        {"tokens": [None] * 4 + [Select(0.01, restore_by="zero_code")] * 2},
    ],
    ids=str,
)
def test_rounds_under_any_plan(sampler: Star, fields: dict[str, Any]) -> None:
    together = codes(sampler, [1, 2], size=1, **fields)
    alone = codes(sampler, [2], sampler.encode_text(PROMPTS[1:2]), size=1, **fields)
    assert equal(alone, [each[1:] for each in together])
    rows = [max(1, h * w // 2) if "tokens" in fields else h * w for h, w in sampler.config.schedules[1]]
    if "tokens" in fields and fields["tokens"][-1].keep == 0.01:
        rows = [1] * 6
    assert [each.shape[1] for each in together][4:] == rows[4:]


def test_smoothed_codes_are_left_to_the_loop(sampler: Star) -> None:
    drawn = codes(sampler, [1], smooth=0.5)
    assert all(each.is_floating_point() for each in drawn)


def test_a_second_stage_that_makes_no_sense_is_refused() -> None:
    for change in ({"first": 0}, {"rounds": 1}, {"last_rounds": 1}, {"early": -1}, {"depth": 0}):
        with pytest.raises(ValueError, match="second stage"):
            SamplerConfig(**change)


# --- checkpoints -------------------------------------------------------------


def test_names_of_published_tensors() -> None:
    names = CheckpointNames()
    assert names.rename("var.blocks.12.cross_attn.scale_mul_1H11") == "blocks.12.cross.log_temperature"
    assert names.rename("var.feat_extract_blocks.2.attn.mat_qkv.weight") == "second.blocks.2.attention.qkv.weight"
    assert names.rename("var.pos_start_last") == "second.start"
    assert names.rename("var.head_logits2.bias") == "second.head.bias"
    assert names.rename("vae.quantize.embedding.weight") == "tokenizer.codebook.weight"
    assert names.rename("var.mystery.weight") == "mystery.weight"
    for key in ("var.class_emb.weight", "var.blocks.0.cross_attn.zero_k_bias", "vae.encoder.conv_in.weight"):
        assert names.rename(key) is None
    for shape in ((1, 4, 1, 1), (1, 1, 4, 1)):
        assert names.reshape("blocks.0.attention.log_temperature", torch.ones(shape)).shape == (4,)


def official(model: Star) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of network and tokenizer as their authors name and shape them."""
    network, tokenizer = {"class_emb.weight": torch.zeros(3, 64)}, {}
    block = {new: old for old, new in star_names._BLOCK.items()}
    top = {new: old for old, new in star_names._TOP.items()}
    for name, tensor in model.state_dict().items():
        if name.startswith("tokenizer."):
            key = name.removeprefix("tokenizer.").replace("codebook", "quantize.embedding")
            tokenizer[key.replace("convolutions.", "quantize.quant_resi.qresi_ls.")] = tensor
        elif "blocks." in name:
            stage, _, rest = name.partition("blocks.")
            number, _, rest = rest.partition(".")
            old = next(rest.replace(new, old, 1) for new, old in block.items() if f"{rest}.".startswith(f"{new}."))
            shaped = tensor.view(1, -1, 1, 1) if old.endswith("scale_mul_1H11") else tensor
            network[f"{'feat_extract_' if stage else ''}blocks.{number}.{old}"] = shaped
        else:
            old = next(name.replace(new, old, 1) for new, old in top.items() if f"{name}.".startswith(f"{new}."))
            network[old] = tensor[None, None] if old.startswith("pos_start") else tensor
    return network, tokenizer


@pytest.mark.parametrize("config", [None, SAMPLER], ids=["plain", "sampler"])
def test_a_published_model_is_loaded(config: SamplerConfig | None, tmp_path: Path, monkeypatch: Any) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    model = tiny_star(seed=5, text_channels=16, sampler=config)
    size = SIZES["star-256"]
    network, tokenizer = official(model)
    torch.save({"trainer": {"var_wo_ddp": network}, "epoch": 3}, tmp_path / size.parts[0].file)
    torch.save(tokenizer, tmp_path / size.parts[1].file)
    randomized(CLIPTextModel(CLIPTextConfig(**settings()))).save_pretrained(tmp_path / "CLIP" / "text_encoder")
    build_tokenizer().save_pretrained(tmp_path / "CLIP" / "tokenizer")
    monkeypatch.setitem(SIZES, "star-256", replace(size, config=model.config, defaults=model.defaults))
    loaded = load("star-256", weights=tmp_path, dtype=torch.bfloat16)
    assert isinstance(loaded, Star) and isinstance(loaded.text_encoder, ClipEncoder)
    assert {p.dtype for name, p in loaded.named_parameters() if "blocks." in name} == {torch.bfloat16}
    loaded = load("star-256", weights=tmp_path)
    model.text_encoder = loaded.text_encoder
    want, found = (Pipeline(one)("a cat", seed=1, output_type="latent").images[0] for one in (model, loaded))
    assert torch.equal(want, found)


def test_the_row_of_the_family() -> None:
    assert star.FAMILY.name == Star.family
    plan = Pipeline(tiny_star()).prepare(Request("a cat", guidance_scale=4.0)).plan
    assert [scale.guidance for scale in plan] == pytest.approx([1 + 4 * k / 5 for k in range(6)])
