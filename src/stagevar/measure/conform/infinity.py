"""Checks of the Infinity family: tokenizer, text, rotary table, teacher forcing and greedy runs."""

from __future__ import annotations

from typing import Any

import torch

from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule, scales
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.errors import ForeignCheckpointError
from stagevar.families.infinity.names import TOKENIZER
from stagevar.families.infinity.network import Infinity, InfinityConfig
from stagevar.families.tokenizers.bsq import TokenizerConfig
from stagevar.loading.fill import fill
from stagevar.measure.conform.conform import Probe, Recorder, reading_config, require

ENCODER_SHARE = 1e-3
"""Bits of the encoder that may differ: a residual near zero has either sign."""


def check(probe: Probe) -> None:
    """Every tensor that a set of this family may store. Each stage of the tokenizer starts from the stored output of
    the stage before, so that a flipped bit neither hides in the next stage nor spoils it."""
    model = build(probe)
    with reading_config(probe.folder):
        schedule: Schedule = tuple((int(h), int(w)) for _, h, w in probe.config["derived"]["scale_schedule"])
        plan = greedy_plan(probe.config, len(schedule))
        middle = greedy_plan(probe.config, len(schedule), guidance_layer=int(probe.config.get("insertion_layer", -1)))
    check_tokenizer(probe, model, schedule)
    text = split_text(probe, "text")
    check_text(probe, model, text)
    condition = model.condition(text)
    rows = torch.cat([model.rope(at, condition) for at in scales(schedule)])
    probe.numbers("rope.cos_sin", rows.movedim(-1, 0))
    if probe.holds("tf."):
        check_teacher_forcing(probe, model, schedule, text)
    check_greedy(probe, model, schedule, "ar", text, None, plan)
    if probe.holds("neg."):
        check_greedy(probe, model, schedule, "neg", text, split_text(probe, "neg_text"), plan)
    check_greedy(probe, model, schedule, "midcfg", text, None, middle)


def build(probe: Probe) -> Infinity:
    """The network that a set describes, with its weights."""
    require(probe.config, use_bit_label=1, rope2d_each_sa_layer=1, rope2d_normalized_by_hw=2)
    require(probe.config, add_lvl_embeding_only_first_block=1, cfg_insertion_layer=[0])
    with reading_config(probe.folder):
        config = config_of(probe)
        with torch.device("meta"):
            model = Infinity(config)
        names = model.checkpoint_names
    fill(model, probe.weights, names.rename, names.reshape, source=probe.folder / "weights.safetensors")
    return model


def config_of(probe: Probe) -> InfinityConfig:
    """The settings of a set in our words; halves of the tokenizer without weights are left out."""
    network, tokenizer, derived = probe.config["transformer"], probe.config["vae"], probe.config["derived"]
    require(network, cos_attn=True, shared_aln=True, head_aln=True)

    def half(name: str) -> tuple[int, ...] | None:
        present = any(key.startswith(f"{TOKENIZER}{name}.") for key in probe.weights)
        return tuple(tokenizer[f"{name}_ch_mult"]) if present else None

    return InfinityConfig(
        width=network["embed_dim"],
        depth=network["depth"],
        heads=network["num_heads"],
        chunks=network["block_chunks"],
        tokenizer=TokenizerConfig(
            bits=tokenizer["codebook_dim"],
            fold=2 if probe.config["apply_spatial_patchify"] else 1,
            stride=tokenizer["patch_size"],
            base=tokenizer["base_ch"],
            encoder=half("encoder"),
            decoder=half("decoder"),
            residual_blocks=tokenizer["num_res_blocks"],
        ),
        text_channels=network["text_channels"],
        text_length=network["text_maxlen"],
        feed_forward=network["mlp_ratio"],
        eps=network["norm_eps"],
        rotary_reference=tuple(derived["rope_reference_grid"]),
    )


def greedy_plan(config: dict[str, Any], length: int, **fields: Any) -> Plan:
    """The most likely bit everywhere, with the set's guidance and temperature per scale."""
    guidance, temperature = list(config["cfg_list"]), list(config["tau_list"])
    return Plan.uniform(length, guidance=guidance, temperature=temperature, top_k=1, **fields)


def split_text(probe: Probe, name: str) -> Text:
    """Text states that are stored without padding, one entry per image."""
    lengths = [int(length) for length in probe.input(f"{name}.lens")]
    states = probe.input(f"{name}.feat")
    if sum(lengths) != len(states):
        raise ForeignCheckpointError(f"{probe.folder}: {name}.lens adds up to {sum(lengths)}, not to {len(states)}")
    return Text(states.split(lengths))


def check_tokenizer(probe: Probe, model: Infinity, schedule: Schedule) -> None:
    tokenizer = model.tokenizer
    if tokenizer.encoder is not None and probe.holds("vae.image_in"):
        probe.numbers("vae.enc_feature", tokenizer.encoder(probe.input("vae.image_in")))
    if probe.holds("vae.enc_feature"):
        bits, latent = tokenizer.quantize(probe.stored["vae.enc_feature"], schedule)
        for k, grid in enumerate(schedule):
            probe.exact(f"vae.bits.{k}", tokenizer.unfold(bits[k].float(), grid).movedim(1, -1)[:, None], ENCODER_SHARE)
        probe.numbers("vae.quantized", latent)
    if tokenizer.decoder is not None and probe.holds("vae.quantized"):
        probe.numbers("vae.recon", tokenizer.decode(probe.stored["vae.quantized"]) * 2 - 1)
    if tokenizer.decoder is not None and probe.holds("vae.latent_in"):
        probe.numbers("vae.decoded_unclamped", tokenizer.decoder(probe.input("vae.latent_in")))


def check_text(probe: Probe, model: Infinity, text: Text) -> None:
    pooled, states, mask = model.read_text(text.features)
    probe.numbers("text.sos", pooled)
    probe.numbers("text.ca_kv", states[mask])


def check_teacher_forcing(probe: Probe, model: Infinity, schedule: Schedule, text: Text) -> None:
    """One pass over given bits, prompts' rows only."""
    bits, _ = model.tokenizer.quantize(probe.input("tf.raw_feature"), schedule)
    for k, found in enumerate(bits):
        probe.exact(f"tf.bits.{k}", found, ENCODER_SHARE)
    forced = {k: probe.stored.get(f"tf.bits.{k}", found).long() for k, found in enumerate(bits)}
    seen = Recorder()
    plans = [Plan.uniform(len(schedule), branch="cond")] * len(text)
    for _ in run(model, model.condition(text), schedule, plans, [0] * len(text), forced=forced, tap=seen):
        pass
    inputs = [model.scale_input(seen["latent", at.k - 1], at) for at in scales(schedule)[1:]]
    probe.numbers("tf.x_in", torch.cat([bits[0][:, :0].float(), *inputs], 1))
    probe.numbers("tf.block0_first3", torch.cat([seen["block.0", k] for k in range(len(schedule))[:3]], 1))
    probe.numbers("tf.logits", torch.cat([seen["logits", k].flatten(2) for k in range(len(schedule))], 1))


def check_greedy(
    probe: Probe, model: Infinity, schedule: Schedule, name: str, text: Text, negative: Text | None, plan: Plan
) -> None:
    """A whole run of the engine, the most likely bits taken."""
    if not probe.holds(f"{name}."):
        return
    seen = Recorder()
    condition = model.condition(text, negative)
    for step in run(model, condition, schedule, [plan] * len(text), [0] * len(text), tap=seen):
        k = step.scale
        probe.exact(f"{name}.bits.{k}", seen["codes", k])
        probe.numbers(f"{name}.logits.{k}", seen["logits", k])
        probe.numbers(f"{name}.block0.{k}", seen["block.0", k])
        if k + 1 < len(schedule):
            probe.numbers(f"{name}.next_in.{k}", model.scale_input(step.latent, Scale(schedule, k + 1)))
    probe.numbers(f"{name}.latent_final", step.latent)
    if model.tokenizer.decoder is not None:
        picture = model.decode(step.latent)
        probe.numbers(f"{name}.image", picture * 2 - 1)
        probe.numbers(f"{name}.image_uint8_bgr", (picture * 255).byte().flip(1).movedim(1, -1), absolute=1)
