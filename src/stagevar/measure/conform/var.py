"""Checks of the VAR family: tokenizer, teacher forcing with and without class, greedy and smoothed runs, filters."""

from __future__ import annotations

import torch

from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.plan.plan import Plan
from stagevar.families.var.network import VAR, VARConfig
from stagevar.loading.fill import fill
from stagevar.measure.conform.conform import Probe, reading_config
from stagevar.measure.conform.vq import (
    check_filters,
    check_forced,
    check_greedy,
    check_smoothed,
    check_tokenizer,
    schedule_of,
    tokenizer_config,
)


def check(probe: Probe) -> None:
    """Every tensor that a set of this family may store."""
    model, schedule, plan = build(probe)
    check_tokenizer(probe, model.tokenizer, schedule)
    condition = model.condition(Text(probe.input("label").split(1)))
    if probe.holds("tf."):
        check_forced(probe, model, schedule, condition)
        check_forced(probe, model, schedule, condition, "null", "tf.logits_null")
    check_greedy(probe, model, schedule, condition, plan)
    if probe.holds("smooth."):
        check_smoothed(probe, model, schedule, condition, plan)
    if probe.holds("filter."):
        check_filters(probe)


def build(probe: Probe) -> tuple[VAR, Schedule, Plan]:
    """The network that a set describes, with its weights, its grids and the plan of its greedy run."""
    with reading_config(probe.folder):
        network, schedule = probe.config["transformer"], schedule_of(probe)
        config = VARConfig(
            width=network["embed_dim"],
            depth=network["depth"],
            heads=network["num_heads"],
            schedules=(schedule,),
            shared=network["shared_aln"],
            cosine=network["attn_l2_norm"],
            classes=network["num_classes"],
            tokenizer=tokenizer_config(probe),
            feed_forward=network["mlp_ratio"],
            eps=network["norm_eps"],
        )
        with torch.device("meta"):
            model = VAR(config)
        guidance = model.guidance_schedule(float(probe.config["cfg"]), schedule)
        plan = Plan.uniform(len(schedule), guidance=guidance, top_k=1)
    names = model.checkpoint_names
    fill(model, probe.weights, names.rename, names.reshape, source=probe.folder / "weights.safetensors")
    return model, schedule, plan
