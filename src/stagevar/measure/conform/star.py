"""Checks of the STAR family: rotary table, teacher forcing, greedy runs and the second stage."""

from __future__ import annotations

import re

import torch

from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Schedule, scales
from stagevar.engine.plan.plan import Plan
from stagevar.families.star.attention import StarCondition
from stagevar.families.star.names import CheckpointNames
from stagevar.families.star.network import Star, StarConfig
from stagevar.families.star.second_stage import SamplerConfig, round_sizes
from stagevar.loading.fill import fill
from stagevar.measure.conform.conform import Probe, reading_config
from stagevar.measure.conform.vq import (
    check_forced,
    check_greedy,
    check_tokenizer,
    schedule_of,
    tokenizer_config,
    unpadded_text,
)


def check(probe: Probe) -> None:
    """Every tensor that a set of this family may store. Some runs are those of the last picture alone; in all others
    the whole batch takes the first row's cross-attention."""
    model, schedule = build(probe)
    with reading_config(probe.folder):
        guidance = model.guidance_schedule(float(probe.config["cfg"]), schedule)
        greedy = Plan.uniform(len(schedule), guidance=guidance, top_k=1)
    check_tokenizer(probe, model.tokenizer, schedule)
    table = torch.cat([model.rope(at) for at in scales(schedule)])
    probe.numbers("rope.cos", table[..., 0])
    probe.numbers("rope.sin", table[..., 1])
    text = unpadded_text(probe)
    n = len(text) // 2
    together = model.condition(part(text, 0, n), part(text, n, 2 * n), across_batch=True)
    alone = model.condition(part(text, n - 1, n), part(text, 2 * n - 1, 2 * n))
    if probe.holds("tf."):
        check_forced(probe, model, schedule, together)
        check_forced(probe, model, schedule, alone, logits=f"tf.logits_sample{n - 1}_alone")
    check_greedy(probe, model, schedule, together, greedy)
    check_greedy(probe, model, schedule, alone, greedy, "ar_single")
    check_second_stage(probe, model, schedule, together.take(range(n)))


def part(text: Text, start: int, end: int) -> Text:
    """Some entries of a text with summaries."""
    assert text.pooled is not None
    return Text(text.features[start:end], text.pooled[start:end])


def build(probe: Probe) -> tuple[Star, Schedule]:
    """The network that a set describes, with its weights; its second stage is there but does not draw."""
    with reading_config(probe.folder):
        network = probe.config["transformer"]
        schedule = schedule_of(probe)
        config = StarConfig(
            width=network["embed_dim"],
            depth=network["depth"],
            heads=network["num_heads"],
            schedules=(schedule,),
            tokenizer=tokenizer_config(probe),
            text_channels=network["in_dim_cross"],
            feed_forward=network["mlp_ratio"],
            rotary_base=network["rope_theta"],
            rotary_range=network["rope_norm"],
            eps=network["norm_eps"],
            sampler=SamplerConfig() if network["enable_adaptive_norm"] else None,
        )
        with torch.device("meta"):
            model = Star(config)
        model.second_stage = False
    names = CheckpointNames()
    fill(model, probe.weights, names.rename, names.reshape, source=probe.folder / "weights.safetensors")
    return model, schedule


def check_second_stage(probe: Probe, model: Star, schedule: Schedule, prompts: StarCondition) -> None:
    """Its network at the last scale, and how many tokens its rounds reveal."""
    for name in sorted(probe.stored):
        if found := re.fullmatch(r"stage2\.schedule\.(\d+)\.(\d+)", name):
            rounds, side = map(int, found.groups())
            probe.exact(name, torch.tensor(round_sizes(rounds, side * side)))
    if model.second is not None and probe.holds("stage2.trunk_feature"):
        trunk, vectors, keep = (probe.input(f"stage2.{name}") for name in ("trunk_feature", "embed", "keep"))
        last = scales(schedule)[-1]
        probe.numbers(
            "stage2.logits", model.second(trunk, vectors * keep[..., None], prompts, model.rope(last), last.k)
        )
