"""Infinity: text, the loop's promises and checkpoints."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stagevar.engine.contract.text import Text
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.errors import MissingFileError, PromptError
from stagevar.families.infinity.grids import budget_schedule
from stagevar.families.infinity.names import CheckpointNames
from stagevar.families.infinity.network import Infinity
from stagevar.families.tokenizers.bsq import TokenizerConfig
from stagevar.loading.fill import fill
from stagevar.loading.read import read_state

from .infinity_parts import PROMPTS, bits, equal, tiny_infinity

GOLDEN = Path(__file__).parents[1] / "golden" / "infinity_patchify"


@pytest.fixture(scope="module")
def model() -> Infinity:
    return tiny_infinity(seed=3)


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
