"""Checks of the Switti family: rotary table, size and crop condition, teacher forcing, greedy and smoothed runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stagevar.errors import ForeignCheckpointError
from stagevar.loop.contract import Condition, Text, token_map
from stagevar.loop.plan import Plan, Schedule
from stagevar.loop.run import run
from stagevar.measure.conform import Probe, Recorder, reading_config, require
from stagevar.measure.conform_vq import check_tokenizer, schedule_of, tokenizer_config
from stagevar.models.switti import Switti, SwittiConfig, crop_numbers
from stagevar.models.switti_names import CheckpointNames
from stagevar.models.weights import fill


def check(probe: Probe) -> None:
    """Every tensor that a set of this family may store."""
    model, schedule = build(probe)
    check_tokenizer(probe, model.tokenizer, schedule)
    table = torch.cat([model.rope(schedule, k) for k in range(len(schedule))])
    probe.numbers("rope.cos", table[..., 0])
    probe.numbers("rope.sin", table[..., 1])
    check_crops(probe, model)
    text, null = split_text(probe)
    if probe.holds("tf."):
        check_teacher_forcing(probe, model, schedule, text, null)
    condition, plan = model.condition(text, null), greedy_plan(probe, model, schedule)
    check_greedy(probe, model, schedule, condition, plan)
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
    """The prompts' states without padding, and the empty prompt's, which is stored last, once for each of them."""
    hidden, pooled, mask = (probe.input(f"text.{name}") for name in ("hidden", "pooled", "mask"))
    if not len(hidden) == len(pooled) == len(mask) > 1:
        raise ForeignCheckpointError(f"{probe.folder}: text.hidden, text.pooled and text.mask do not belong together")
    features = tuple(states[valid.bool()] for states, valid in zip(hidden, mask, strict=True))
    n = len(features) - 1
    return Text(features[:-1], pooled[:-1]), Text(features[-1:] * n, pooled[-1:].expand(n, -1))


def check_teacher_forcing(probe: Probe, model: Switti, schedule: Schedule, text: Text, null: Text) -> None:
    """One pass over given codes, prompts' rows only, with the pictures' own sizes as condition."""
    forced = {k: probe.input(f"tf.idx.{k}") for k in range(len(schedule))}
    numbers = crop_numbers(probe.input("crop.heights"), probe.input("crop.widths"))
    condition = model.cropped_condition(text, null, numbers.repeat(2, 1))
    plans = [Plan.uniform(len(schedule), branch="cond")] * len(text)
    seen = Recorder()
    for _ in run(model, condition, schedule, plans, [0] * len(text), forced=forced, tap=seen):
        pass
    scales = range(len(schedule))
    inputs = [model.tokenizer.scale_input(seen["latent", k - 1], schedule, k) for k in scales[1:]]
    probe.numbers("tf.x_in", torch.cat(inputs, 1))
    probe.numbers("tf.block0", torch.cat([seen["block.0", k] for k in scales], 1))
    probe.numbers("tf.logits", torch.cat([seen["logits", k] for k in scales], 1))


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


def check_greedy(probe: Probe, model: Switti, schedule: Schedule, condition: Condition, plan: Plan) -> None:
    """A whole run of the engine, the most likely codes taken."""
    n, seen = condition.rows // 2, Recorder()
    for step in run(model, condition, schedule, [plan] * n, [0] * n, tap=seen):
        k = step.scale
        probe.exact(f"ar.idx.{k}", seen["codes", k])
        probe.numbers(f"ar.logits.{k}", seen["logits", k], absolute=5e-3)
        probe.numbers(f"ar.block0.{k}", seen["block.0", k])
        probe.numbers(f"ar.fhat.{k}", step.latent)
        if k + 1 < len(schedule):
            rows = model.tokenizer.scale_input(step.latent, schedule, k + 1)
            probe.numbers(f"ar.next_in.{k}", token_map(rows, schedule[k + 1]))
    probe.numbers("ar.fhat_final", step.latent)
    probe.numbers("ar.image", model.decode(step.latent))


def check_smoothed(probe: Probe, model: Switti, schedule: Schedule, condition: Condition, plan: Plan) -> None:
    """The same with codes mixed by the stored noise, at the scales that have some."""
    noise = {k: probe.input(f"smooth.noise.{k}") for k in range(len(schedule)) if probe.holds(f"smooth.noise.{k}")}
    for k in noise:
        plan = plan.replace([k], smooth=k / (len(schedule) - 1), top_k=0)

    def stored(image: int, scale: int, shape: Sequence[int]) -> Tensor:
        return (-(-noise[scale][image].double()).exp()).exp()

    images, seen = range(condition.rows // 2), Recorder()
    for step in run(model, condition, schedule, [plan] * len(images), images, noise=stored, tap=seen):
        k = step.scale
        codes = seen["codes", k]
        if k not in noise:
            probe.exact(f"smooth.idx.{k}", codes)
        probe.numbers(f"smooth.h.{k}", token_map(model.tokenizer.embed(codes), schedule[k]))
    probe.numbers("smooth.fhat_final", step.latent)
    probe.numbers("smooth.image", model.decode(step.latent))
