"""Checks of the Switti family: rotary table, size and crop condition, teacher forcing, greedy and smoothed runs."""

from __future__ import annotations

import torch

from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Schedule, scales
from stagevar.engine.plan.plan import Plan
from stagevar.families.switti.names import CheckpointNames
from stagevar.families.switti.network import Switti, SwittiConfig, crop_numbers
from stagevar.loading.fill import fill
from stagevar.measure.conform.conform import Probe, reading_config, require
from stagevar.measure.conform.vq import (
    check_forced,
    check_greedy,
    check_smoothed,
    check_tokenizer,
    schedule_of,
    tokenizer_config,
    unpadded_text,
)

LOGITS = 5e-3
"""Tolerance of a run's logits, as those of one scale are divided by a small temperature."""


def check(probe: Probe) -> None:
    """Every tensor that a set of this family may store."""
    model, schedule = build(probe)
    check_tokenizer(probe, model.tokenizer, schedule)
    table = torch.cat([model.rope(at) for at in scales(schedule)])
    probe.numbers("rope.cos", table[..., 0])
    probe.numbers("rope.sin", table[..., 1])
    check_crops(probe, model)
    text, null = split_text(probe)
    if probe.holds("tf."):
        numbers = crop_numbers(probe.input("crop.heights"), probe.input("crop.widths"))
        check_forced(probe, model, schedule, model.cropped_condition(text, null, numbers.repeat(2, 1)))
    condition, plan = model.condition(text, null), greedy_plan(probe, model, schedule)
    check_greedy(probe, model, schedule, condition, plan, absolute=LOGITS)
    if probe.holds("smooth."):
        check_smoothed(probe, model, schedule, condition, plan)


def build(probe: Probe) -> tuple[Switti, Schedule]:
    """The network that a set describes, with its weights."""
    with reading_config(probe.folder):
        network, sampling = probe.config["transformer"], probe.config["ar"]
        require(network, rope=True, use_crop_cond=True, use_swiglu_ffn=True, attn_l2_norm=True)
        schedule = schedule_of(probe)
        config = SwittiConfig(
            width=network["embed_dim"],
            depth=network["depth"],
            heads=network["num_heads"],
            causal=network["use_ar"],
            schedules=(schedule,),
            guided=(sampling["turn_on_cfg_start_si"], sampling["turn_off_cfg_start_si"]),
            tokenizer=tokenizer_config(probe),
            text_channels=network["context_dim"],
            pooled_channels=network["pooled_dim"],
            rotary_range=network["rope_size"],
            rotary_base=network["rope_theta"],
            eps=network["norm_eps"],
        )
        with torch.device("meta"):
            model = Switti(config)
    names = CheckpointNames()
    fill(model, probe.weights, names.rename, names.reshape, source=probe.folder / "weights.safetensors")
    return model, schedule


def check_crops(probe: Probe, model: Switti) -> None:
    if probe.holds("crop.heights"):
        numbers = crop_numbers(probe.input("crop.heights"), probe.input("crop.widths"))
        probe.exact("crop.numbers", numbers)
        probe.numbers("crop.vector", model.crop(numbers))
    side = torch.tensor([512])
    probe.exact("crop.numbers_512", crop_numbers(side, side))
    probe.numbers("crop.vector_512", model.crop(crop_numbers(side, side)))


def split_text(probe: Probe) -> tuple[Text, Text]:
    """The prompts, and the empty prompt, which is stored last, once for each of them."""
    text = unpadded_text(probe)
    assert text.pooled is not None
    n = len(text) - 1
    return Text(text.features[:-1], text.pooled[:-1]), Text(text.features[-1:] * n, text.pooled[-1:].expand(n, -1))


def greedy_plan(probe: Probe, model: Switti, schedule: Schedule) -> Plan:
    """The most likely code everywhere, guided and cooled as the set says."""
    with reading_config(probe.folder):
        sampling, branches = probe.config["ar"], model.branches(schedule)
        late = float(sampling["last_scale_temp"] or 1.0)
        return Plan.uniform(
            len(schedule),
            branch=branches,
            guidance=model.guidance_schedule(float(sampling["cfg"]), schedule),
            temperature=[late if branch == "cond" else 1.0 for branch in branches],
            top_k=1,
        )
