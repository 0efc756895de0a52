"""STAR: the second stage, and checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.grids.grid import Scale
from stagevar.engine.grids.noise import uniforms
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.families.star import names as star_names
from stagevar.families.star import sizes as star
from stagevar.families.star.names import CheckpointNames
from stagevar.families.star.network import Star
from stagevar.families.star.second_stage import SamplerConfig, round_sizes
from stagevar.families.star.sizes import SIZES
from stagevar.families.text_encoders.clip import ClipEncoder
from stagevar.loading.sources import load
from stagevar.pipeline import Pipeline
from stagevar.request import Request

from .star_parts import PROMPTS, SAMPLER, codes, equal, tiny_star
from .tiny_clip import build_tokenizer, randomized, settings


@pytest.fixture(scope="module")
def model() -> Star:
    return tiny_star(seed=3)


@pytest.fixture(scope="module")
def sampler() -> Star:
    return tiny_star(seed=4, sampler=SAMPLER)


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
    torch.save({"trainer": {"var_wo_ddp": network}, "epoch": 3}, tmp_path / size.files[0].path)
    torch.save(tokenizer, tmp_path / size.files[1].path)
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
