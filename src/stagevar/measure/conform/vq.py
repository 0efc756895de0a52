"""Checks that the families with a vector-quantising tokenizer share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.sampling import keep_likely
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule, scales
from stagevar.engine.grids.rows import Branch, token_map
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.errors import ForeignCheckpointError
from stagevar.families.tokenizers.vq import VQConfig, VQTokenizer
from stagevar.families.vq_model import VQModel
from stagevar.families.vq_names import TOKENIZER
from stagevar.measure.conform.conform import Probe, Recorder, reading_config, require

ENCODER_SHARE = 1e-3
"""Codes of the encoder that may differ: a feature may lie halfway between two vectors."""

USUAL = 2e-4
"""Absolute tolerance of latents."""


def schedule_of(probe: Probe) -> Schedule:
    """The square grids of a set."""
    return tuple((int(side), int(side)) for side in probe.config["patch_nums"])


def tokenizer_config(probe: Probe) -> VQConfig:
    """The tokenizer of a set in our words; an encoder without weights is left out."""
    tokenizer = probe.config["vae"]
    require(tokenizer, quant_conv_ks=3, using_znorm=False)
    return VQConfig(
        base=tokenizer["ch"],
        multipliers=tuple(tokenizer["ch_mult"]),
        residual_blocks=tokenizer["num_res_blocks"],
        channels=tokenizer["z_channels"],
        codes=tokenizer["vocab_size"],
        convolutions=tokenizer.get("share_quant_resi", 4) or len(probe.config["patch_nums"]),
        blend=tokenizer.get("quant_resi", 0.5),
        encoder=any(key.startswith(f"{TOKENIZER}encoder.") for key in probe.weights),
    )


def check_tokenizer(probe: Probe, tokenizer: VQTokenizer, schedule: Schedule) -> None:
    """The tokenizer alone. Each stage starts from the stored output of the stage before, so that a flipped code neither
    hides in the next stage nor spoils it."""
    if tokenizer.encoder is not None and tokenizer.quant_conv is not None and probe.holds("vae.image_in"):
        probe.numbers("vae.enc_feature", tokenizer.quant_conv(tokenizer.encoder(probe.input("vae.image_in"))))
    if probe.holds("vae.enc_feature"):
        codes, latents = tokenizer.quantize(probe.stored["vae.enc_feature"], schedule)
        for k, found in enumerate(codes):
            probe.exact(f"vae.idx.{k}", found, ENCODER_SHARE)
        probe.numbers("vae.fhat_first", latents[0])
        probe.numbers("vae.fhat_last", latents[-1])
    if probe.holds("vae.fhat_last"):
        probe.numbers("vae.recon", tokenizer.decode(probe.stored["vae.fhat_last"]) * 2 - 1)
    if probe.holds("vae.latent_in"):
        latent = tokenizer.post_quant_conv(probe.input("vae.latent_in"))
        probe.numbers("vae.decoded_unclamped", tokenizer.decoder(latent))


def unpadded_text(probe: Probe) -> Text:
    """All texts of a set, prompts first, their states without padding.

    Raises:
        ForeignCheckpointError: the stored tensors do not belong together.
    """
    hidden, pooled, mask = (probe.input(f"text.{name}") for name in ("hidden", "pooled", "mask"))
    if not (len(hidden) == len(pooled) > 1 and hidden.shape[:2] == mask.shape):
        raise ForeignCheckpointError(f"{probe.folder}: text.hidden, text.pooled and text.mask do not belong together")
    return Text(tuple(states[valid.bool()] for states, valid in zip(hidden, mask, strict=True)), pooled)


def check_forced(
    probe: Probe,
    model: VQModel,
    schedule: Schedule,
    condition: Condition,
    branch: Branch = "cond",
    logits: str = "tf.logits",
) -> None:
    """One pass over given codes, rows of one branch only; of the set's last pictures if the condition has fewer."""
    n, seen = condition.rows // 2, Recorder()
    forced = {k: probe.input(f"tf.idx.{k}")[-n:] for k in range(len(schedule))}
    plans = [Plan.uniform(len(schedule), branch=branch)] * n
    for _ in run(model, condition, schedule, plans, [0] * n, forced=forced, tap=seen):
        pass
    probe.numbers(logits, torch.cat([seen["logits", k] for k in forced], 1))
    if logits == "tf.logits":
        inputs = [model.tokenizer.scale_input(seen["latent", at.k - 1], at) for at in scales(schedule)[1:]]
        probe.numbers("tf.x_in", torch.cat(inputs, 1))
        probe.numbers("tf.block0", torch.cat([seen["block.0", k] for k in forced], 1))


def check_greedy(
    probe: Probe,
    model: VQModel,
    schedule: Schedule,
    condition: Condition,
    plan: Plan,
    name: str = "ar",
    absolute: float | None = None,
) -> None:
    """A whole run of the engine, the most likely codes taken; ``absolute`` is the tolerance of its logits."""
    n, seen = condition.rows // 2, Recorder()
    for step in run(model, condition, schedule, [plan] * n, [0] * n, tap=seen):
        k = step.scale
        probe.exact(f"{name}.idx.{k}", seen["codes", k])
        probe.numbers(f"{name}.logits.{k}", seen["logits", k], absolute)
        probe.numbers(f"{name}.block0.{k}", seen["block.0", k])
        probe.numbers(f"{name}.fhat.{k}", step.latent)
        if k + 1 < len(schedule):
            rows = model.tokenizer.scale_input(step.latent, Scale(schedule, k + 1))
            probe.numbers(f"{name}.next_in.{k}", token_map(rows, schedule[k + 1]))
    probe.numbers(f"{name}.fhat_final", step.latent)
    probe.numbers(f"{name}.image", model.decode(step.latent))


def check_smoothed(probe: Probe, model: VQModel, schedule: Schedule, condition: Condition, plan: Plan) -> None:
    """A whole run with codes mixed by the stored noise, at the scales that have some.

    The mixing multiplies the logits' rounding up to 148 times, and every scale feeds the next one, so that the tensors
    are chaotic.
    """
    noise = {k: probe.input(f"smooth.noise.{k}") for k in range(len(schedule)) if probe.holds(f"smooth.noise.{k}")}
    strengths = {k: k / max(len(schedule) - 1, 1) for k in noise}
    for k in noise:
        plan = plan.replace([k], smooth=strengths[k], top_k=0)

    def stored(image: int, scale: int, shape: Sequence[int]) -> Tensor:
        return (-(-noise[scale][image].double()).exp()).exp()

    images, seen = range(condition.rows // 2), Recorder()
    for step in run(model, condition, schedule, [plan] * len(images), images, noise=stored, tap=seen):
        k = step.scale
        codes = seen["codes", k]
        if k not in noise:
            probe.exact(f"smooth.idx.{k}", codes)
        probe.chaotic(f"smooth.h.{k}", token_map(model.tokenizer.embed(codes), schedule[k]), USUAL)
    probe.chaotic("smooth.fhat_final", step.latent, USUAL)
    probe.chaotic("smooth.image", model.decode(step.latent), 5e-4)


def check_filters(probe: Probe) -> None:
    """Which codes top-k and top-p keep."""
    logits = probe.input("filter.logits")
    with reading_config(probe.folder):
        cases = [(int(top_k), float(top_p) or 1.0) for top_k, top_p in probe.config["filter_cases"]]
    for j, (top_k, top_p) in enumerate(cases):
        probe.exact(f"filter.keep.{j}", torch.isfinite(keep_likely(logits, top_k, top_p)))
