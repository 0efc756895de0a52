"""Checks of the HART family: text and rotary positions, residual sampler, a greedy run with and without residual."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule, scales
from stagevar.engine.grids.rows import token_map, token_rows
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.families.hart.blocks import grid_positions
from stagevar.families.hart.config import config_of
from stagevar.families.hart.names import CheckpointNames
from stagevar.families.hart.network import Hart, HartCondition
from stagevar.loading.fill import fill
from stagevar.measure.conform.conform import Probe, Recorder, reading_config
from stagevar.measure.conform.vq import check_tokenizer, tokenizer_config


def check(probe: Probe) -> None:
    """Every tensor that a set of this family may store."""
    with reading_config(probe.folder):
        settings = probe.config["transformer"] | {"patch_nums": probe.config["patch_nums"]}
        with torch.device("meta"):
            model = StoredNoise(config_of(settings, tokenizer_config(probe)))
    names = CheckpointNames()
    fill(model, probe.weights, names.rename, names.reshape, source=probe.folder / "weights.safetensors")
    schedule = model.schedule()
    check_tokenizer(probe, model.tokenizer, schedule)
    text = Text(tuple(probe.input("text.hidden")), masks=tuple(probe.input("text.mask").bool()))
    condition = model.condition(text)
    check_positions(probe, model, schedule, condition)
    check_sampler(probe, model)
    with reading_config(probe.folder):
        guidance = model.guidance_schedule(float(probe.config["cfg"]), schedule)
        plan = Plan.uniform(len(schedule), guidance=guidance, top_k=1)
    probe.numbers("ar.residual_cfg", torch.tensor([guidance[-1] - 1]))
    start, steps = probe.input("diff.noise_init"), probe.input("diff.noise_step")
    rows = torch.cat([start[None], steps[: model.residual_head.steps - 1]])
    model.numbers = rows.unflatten(1, (len(text), -1)).permute(1, 2, 0, 3).flatten(2)
    check_greedy(probe, model, schedule, condition, plan, "ar")
    model.refined = False
    check_greedy(probe, model, schedule, condition, plan, "discrete")


@dataclass(frozen=True)
class StoredNormals(Drawing):
    """A draw whose normal numbers (n, M, steps * D) are given."""

    numbers: Tensor = field(kw_only=True)

    def normals(self, channels: int, device: torch.device) -> Tensor:
        return self.numbers


class StoredNoise(Hart):
    """Draws the residual from ``numbers`` (n, M, steps * D) and keeps its condition."""

    numbers: Tensor
    states: Tensor

    def residual(self, x_RMC: Tensor, codes: Tensor, drawing: Drawing) -> Tensor | None:
        self.states = self.residual_condition(x_RMC, codes)
        return super().residual(
            x_RMC,
            codes,
            StoredNormals(**{f.name: getattr(drawing, f.name) for f in fields(drawing)}, numbers=self.numbers),
        )


def check_positions(probe: Probe, model: Hart, schedule: Schedule, condition: HartCondition) -> None:
    """Levels and rotary factors; those of pictures are stored for the prompts' rows."""
    n, every = condition.rows // 2, scales(schedule)
    probe.exact("text.position_ids", condition.positions[:n])
    levels = [model.level(torch.tensor(at.k)).expand(model.rows(at), -1) for at in every]
    probe.numbers("level.embed", torch.cat(levels))
    factors = [model.rope(at, condition)[:n] for at in every]
    for i, name in enumerate(("cos", "sin")):
        probe.numbers(f"rope.context_{name}", factors[0][..., i])
        probe.numbers(f"rope.{name}", torch.cat(factors[1:], 1)[..., i])
    places = [grid_positions(at.grid, at.final, condition.positions[:n, -1]) for at in every[1:]]
    probe.numbers("rope.position_ids", torch.cat(places, 1))


def check_sampler(probe: Probe, model: Hart) -> None:
    """The coefficients of the residual sampler, and its network alone."""
    head = model.residual_head
    for each in fields(head.coefficients):
        probe.numbers(f"diff.{each.name}", torch.as_tensor(getattr(head.coefficients, each.name)))
    if probe.holds("diffnet."):
        x, t, c = (probe.input(f"diffnet.{name}") for name in "xtc")
        probe.numbers("diffnet.out", head(x, t, c))


def check_greedy(
    probe: Probe, model: StoredNoise, schedule: Schedule, condition: HartCondition, plan: Plan, name: str
) -> None:
    """A whole run of the engine, the most likely codes taken.

    The residual's first step divides by 5e-5, so that it differs by 1e-3 between machines: what comes behind it starts
    from the stored one.
    """
    n, seen = condition.rows // 2, Recorder()
    for step in run(model, condition, schedule, [plan] * n, [0] * n, tap=seen):
        k = step.scale
        probe.exact(f"{name}.idx.{k}", seen["codes", k])
        probe.numbers(f"{name}.logits.{k}", seen["logits", k])
        probe.numbers(f"{name}.block0.{k}", seen["block.0", k])
        probe.numbers(f"{name}.fhat.{k}", step.latent)
        if k + 1 < len(schedule):
            rows = model.tokenizer.scale_input(step.latent, Scale(schedule, k + 1))
            probe.numbers(f"{name}.next_in.{k}", token_map(rows, schedule[k + 1]))
    latent = step.latent
    if model.refined:
        residual = seen["residual", k]
        probe.numbers(f"{name}.residual_cond", model.states.flatten(0, 1))
        probe.numbers(f"{name}.residual", token_rows(residual))
        if f"{name}.residual" in probe.stored:
            latent = latent - residual + token_map(probe.stored[f"{name}.residual"], schedule[k])
    probe.numbers(f"{name}.fhat_final", latent)
    probe.numbers(f"{name}.image", model.decode(latent))
