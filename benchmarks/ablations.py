"""What each choice inside our accelerator is worth: ``python benchmarks/ablations.py``.

One choice at a time is replaced in a fixed plan for a model of ten scales (one branch in the last two scales, half of
the positions at the second last and .3 at the last), and quality and operations are measured. Appends to
``results/ablations.jsonl``, per model: SSIM and PSNR to the plain run with the same noise, score of the model's reader,
operations.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from store import append, arguments
from torch import Tensor

from stagevar.accelerators.sketch import Sketch
from stagevar.drawing import condition
from stagevar.engine.grids.rows import Role
from stagevar.engine.loop.run import run
from stagevar.engine.plan.local import Local
from stagevar.engine.plan.merge import Merge
from stagevar.engine.plan.parts import EVERY, Layers, PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.tokens import TokenContext, Tokens
from stagevar.machine import machine
from stagevar.measure.likeness.fidelity import psnr, ssim
from stagevar.measure.predict.explain import text_rows
from stagevar.measure.predict.flops import operations
from stagevar.measure.suites.known import suite_of
from stagevar.pipeline import Pipeline
from stagevar.request import Request

KEEP = 0.5, 0.3
"""Shares of the positions at the second last and at the last scale."""

STRUCTURE = 7
"""The scale before these two."""


@dataclass(frozen=True, slots=True)
class Leverage(Select):
    """Rows by leverage score: how far a row sticks out of the span of the others, from a sketch of 32 channels."""

    def scores(self, x_RMC: Tensor, context: TokenContext) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(x_RMC.shape[-1], 32, generator=generator).to(x_RMC)
        left, _, _ = torch.linalg.svd(x_RMC @ basis, full_matrices=False)
        return left.square().sum(-1)


@dataclass(frozen=True, slots=True)
class Shuffled(Select):
    """Any rows: the control of all scores."""

    def scores(self, x_RMC: Tensor, context: TokenContext) -> Tensor:
        generator = torch.Generator().manual_seed(context.scale)
        order = torch.rand(x_RMC.shape[1], generator=generator).to(x_RMC)
        return order.expand(len(x_RMC), -1)


def ours(keep: float) -> Tokens:
    return Select(keep, restore_by="zero_code")


def late(
    make: Callable[[float], Tokens] | None, keeps: tuple[float, float] = KEEP, **fields: Any
) -> Callable[[Plan], Plan]:
    """The fixed plan with other tokens, or other fields, in the last two scales."""

    def edit(plan: Plan) -> Plan:
        settings = {"branch": "cond", "cache": "none"} | fields
        plan = plan.replace([-2, -1], **settings)
        for scale, keep in zip((-2, -1), keeps, strict=True):
            plan = plan.replace([scale], tokens=None if make is None else make(keep))
        return plan

    return edit


def filled(role: Role, layers: Layers = EVERY) -> PartRows:
    """No part of a role runs; it adds what it added at the last scale of the structure stage."""
    return PartRows(1.0, (role,), layers, source=STRUCTURE)


VARIANTS: dict[str, Callable[[Plan], Plan]] = {
    "ours: contrast, zero_code": late(ours),
    "all positions": late(None),
    "score change": late(lambda keep: Select(keep, score="change", restore_by="zero_code")),
    "score random": late(lambda keep: Shuffled(keep, restore_by="zero_code")),
    "score norm, restore nearest": late(lambda keep: Select(keep, score="norm", restore_by="nearest")),
    "score distance, restore nearest": late(lambda keep: Select(keep, score="distance", restore_by="nearest")),
    "score leverage, restore nearest": late(lambda keep: Leverage(keep, restore_by="nearest")),
    "score leverage, restore lowrank": late(lambda keep: Leverage(keep, restore_by="lowrank")),
    "restore nearest": late(lambda keep: Select(keep, restore_by="nearest")),
    "restore increment": late(lambda keep: Select(keep, restore_by="increment")),
    "restore hidden": late(lambda keep: Select(keep, restore_by="hidden")),
    "restore lowrank": late(lambda keep: Select(keep, restore_by="lowrank")),
    "merge": late(lambda keep: Merge(keep)),
    "random projection": late(lambda keep: Sketch((keep,) * 6)),
    "nearest, first layer dense": late(lambda keep: Select(keep, restore_by="nearest", dense=(0.17, 0.0))),
    "nearest, last layer dense": late(lambda keep: Select(keep, restore_by="nearest", dense=(0.0, 0.17))),
    "rows kept for the last scale": late(ours, cache="all"),
    "null branch instead of the prompt's": late(ours, branch="null"),
    "both branches": late(ours, branch="both"),
    "guidance carried, half": late(ours, carry=0.5),
    "guidance carried, whole": late(ours, carry=1.0),
    "one branch one scale earlier": lambda plan: late(ours)(plan).replace([-3], branch="cond"),
    "both scales in one pass": lambda plan: late(ours)(plan).replace([-1], group=True),
    "fewer first, more last: .3 and .4": late(ours, (0.3, 0.4)),
    "second last left out, .5 at the last": lambda plan: late(ours, (1.0, 0.5))(plan).replace([-2], run="skip"),
    "cross-attention of the scale before": late(ours, parts=(filled("cross"),)),
    "and self-attention in the first third": late(ours, parts=(filled("cross"), filled("attention", (0.0, 0.34)))),
    "local attention": late(ours, attend=(Local((9, 7, 5), sinks=5, block=1),)),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=["scenes"], help="names or folders of models of ten scales")
    parser.add_argument("--captions", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=12)
    options = parser.parse_args()
    report: dict[str, Any] = {"batch": options.batch_size, "kept": list(KEEP), "worlds": []}
    for name in options.models:
        pipe = Pipeline.from_pretrained(name, device=options.device, dtype="float32")
        found = rows(pipe, options.captions, options.batch_size)
        report |= machine(pipe.model)
        report["worlds"].append({"model": pipe.model.name, "captions": options.captions, "rows": found})
    append("ablations", options.device, report, options.out)


def rows(pipe: Pipeline, captions: int, batch_size: int) -> list[dict[str, Any]]:
    """A row per variant, the plain run first."""
    suite = suite_of(pipe.model)
    assert suite is not None
    questions = suite.questions(captions)
    texts = [question.caption for question in questions]
    requests = [Request(text, seed=i) for i, text in enumerate(texts)]
    schedule = pipe.model.schedule()
    plain = pipe.prepare(requests[0]).plan
    cost = operations(pipe.model, schedule, text_rows(pipe.model, texts))
    pictures = {"none": draw(pipe, requests, plain, batch_size)}
    found = []
    for name, edit in {"none": lambda plan: plan, **VARIANTS}.items():
        plan = edit(plain)
        drawn = pictures[name] if name in pictures else draw(pipe, requests, plan, batch_size)
        found.append(
            {
                "variant": name,
                "flop_ratio": cost(plain) / cost(plan),
                "ssim": ssim(drawn, pictures["none"]).mean().item(),
                "psnr": psnr(drawn, pictures["none"]).mean().item(),
                "oracle": fmean(float(verdict.strict) for verdict in suite.judge(questions, drawn)),
            }
        )
        print(pipe.model.name, json.dumps(found[-1]), flush=True)
    return found


def draw(pipe: Pipeline, requests: list[Request], plan: Plan, batch_size: int) -> Tensor:
    """Pictures (n, 3, h, w) of all requests by one plan."""
    parts = []
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        with torch.inference_mode():
            given = condition(pipe.model, batch)
        plans, seeds = [plan] * len(batch), [request.seed for request in batch]
        *_, last = run(pipe.model, given, pipe.model.schedule(), plans, seeds)
        with torch.inference_mode():
            parts.append(pipe.model.decode(last.latent).float())
    return torch.cat(parts)


if __name__ == "__main__":
    main()
