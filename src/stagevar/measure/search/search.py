"""Find plans of late scales for budgets of operations, and hold them against controls on captions of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.accelerators.planned import numbers
from stagevar.engine.grids.grid import Scale
from stagevar.errors import OptionError
from stagevar.machine import machine
from stagevar.measure.bench.draw import draw
from stagevar.measure.likeness.fidelity import ssim
from stagevar.measure.predict.explain import text_rows
from stagevar.measure.predict.flops import operations
from stagevar.measure.search.choose import chooser
from stagevar.measure.search.evaluate import Evaluation, Journal
from stagevar.measure.search.evolve import Halving, evolve, scatter
from stagevar.measure.search.genome import DepthGenome, Genes, Genome, RowsGenome
from stagevar.measure.suites.known import in_turn, questions_for
from stagevar.pipeline import Pipeline
from stagevar.plans import FoundPlan, FoundPlans
from stagevar.request import PerScale, Request

GENOMES = (RowsGenome.name, DepthGenome.name)
RUNGS = 6, 3, 1
"""Shares of the captions that plans are tried on, one after another: a sixth, a third, all."""

DIAL = "stagevar(quality=0.0)", "stagevar(quality=0.15)", "stagevar(quality=0.3)", "stagevar"
BESIDE = *DIAL, "drop_last(1)", "drop_last(2)"
"""Accelerators whose figures on the held-out captions are printed beside the plans'."""

Strategy = Callable[..., dict[Genes, float]]
Told = Callable[[str, int, float], None]
"""Told what is being done, how many plans were tried, and the best mean SSIM so far."""

ORDERED_BY = 4
"""Captions by which blocks are ordered."""


@dataclass(frozen=True)
class Search:
    """What is searched for, and on what.

    Attributes:
        budgets: least operations of the plain run over those of a plan, one search each.
        captions, held_out: pictures that plans are compared on, and those that only the best are drawn for.
        evaluations: plans that are tried per budget.
        genome: ``rows`` or ``depth``.
        seed: of the first picture, and of the search.
        control: whether random search of as many plans is tried as well.
        batch_size: pictures per pass.
        guidance: strength; the model's default if None.

    Raises:
        OptionError: a number out of range, or an unknown genome.
    """

    budgets: tuple[float, ...] = (4.0,)
    captions: int = 48
    held_out: int = 48
    evaluations: int = 400
    genome: str = "rows"
    seed: int = 0
    control: bool = False
    batch_size: int = 8
    guidance: PerScale | None = None

    def __post_init__(self) -> None:
        if not self.budgets or not all(1 < budget < math.inf for budget in self.budgets):
            raise OptionError(f"a budget is how many times fewer operations, above 1, not {self.budgets}")
        for name, least in (("captions", 2), ("held_out", 2), ("evaluations", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if self.genome not in GENOMES:
            raise OptionError(f"the genome is one of {', '.join(GENOMES)}, not {self.genome!r}")

    @property
    def rungs(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(max(2, self.captions // part) for part in RUNGS))


@dataclass(frozen=True)
class Outcome:
    """What a search has found.

    Attributes:
        plans: as ``planned(file=...)`` reads them.
        report: what was searched, and per budget the plan and its controls on held-out captions, as plain data.
    """

    plans: FoundPlans
    report: dict[str, Any]


def search(
    pipeline: Pipeline,
    wanted: Search,
    *,
    prompts: Sequence[str] = (),
    journal: Path | None = None,
    told: Told = lambda what, done, best: None,
    **settings: Any,
) -> Outcome:
    """Search for every budget, then draw what was found, and the controls, for captions that were not searched on.

    Args:
        pipeline: any model of the package.
        wanted: what is searched for.
        prompts: of the captions and then of the held-out ones; the model's own questions if empty.
        journal: file of what is known already, which a later call goes on from.
        told: how far it is.
        settings: other fields of ``Request``, such as height and width.

    Raises:
        OptionError: no plan of the genome meets a budget, too few prompts, or a journal of other settings.
        RequestError and its kinds, NumericError, OutputError.
    """
    evaluation = evaluated(pipeline, wanted, prompts, journal, settings)
    genome, requests, facts = evaluation.genome, evaluation.requests, machine(pipeline.model)
    halving, later = Halving(evaluation, wanted.rungs), range(wanted.captions, len(requests))
    rows = []
    for budget in sorted(wanted.budgets):
        options = (genome, budget, wanted.evaluations, halving, wanted.seed)
        chosen = {"found": _told(evolve, "evolution", budget, told, *options)}
        if wanted.control:
            chosen["random"] = _told(scatter, "random search", budget, told, *options)
        rows.append({"budget": budget, **held(evaluation, chosen, budget, later)})
    beside = [_beside(evaluation, each, later) for each in _taken(pipeline, requests[0])]
    return Outcome(
        FoundPlans(
            model=pipeline.model.name,
            versions={name: facts[name] for name in ("stagevar", "torch")},
            schedule=genome.schedule,
            genome=genome.name,
            captions=wanted.captions,
            held_out=wanted.held_out,
            plans=tuple(_plan(genome, each) for each in rows),
            chooser=_chooser(evaluation, [each["genes"] for each in rows], range(wanted.captions)),
        ),
        {
            **facts,
            "model": pipeline.model.name,
            "size": list(pipeline.prepare(requests[0]).size),
            "genome": genome.name,
            **{name: getattr(wanted, name) for name in ("captions", "held_out", "evaluations", "seed", "guidance")},
            "rungs": wanted.rungs,
            "drawn": evaluation.drawn,
            "budgets": rows,
            "beside": beside,
        },
    )


def evaluated(
    pipeline: Pipeline, wanted: Search, prompts: Sequence[str], journal: Path | None, settings: Mapping[str, Any]
) -> Evaluation:
    """What draws a search's captions, with all checked that can be before the first of them."""
    count = wanted.captions + wanted.held_out
    if prompts and len(prompts) < count:
        raise OptionError(
            f"{len(prompts)} prompts for {wanted.captions} captions and {wanted.held_out} held out; give {count}, or "
            "take fewer captions"
        )
    asked = in_turn(prompts, count) if prompts else questions_for(pipeline.model, count)
    sampling: dict[str, Any] = {"guidance_scale": wanted.guidance, **settings}
    requests = [Request(each.caption, seed=wanted.seed + i, **sampling) for i, each in enumerate(asked)]
    genome = genome_of(pipeline, wanted, requests)
    for budget in wanted.budgets:
        genome.projected(tuple(high for _, high in genome.limits), budget)
    facts = machine(pipeline.model)
    head = {"model": pipeline.model.name, "dtype": facts["dtype"], "stagevar": facts["stagevar"], "genome": genome.name}
    head |= {"seed": wanted.seed, "guidance": wanted.guidance, "schedule": genome.schedule}
    head |= {"captions": [each.caption for each in asked[: wanted.captions]]}
    return Evaluation(pipeline, genome, requests, Journal(journal, head), wanted.batch_size)


def genome_of(pipeline: Pipeline, wanted: Search, requests: Sequence[Request]) -> Genome:
    """The plans that are searched over."""
    model, prepared = pipeline.model, pipeline.prepare(requests[0])
    cost = operations(model, prepared.schedule, text_rows(model, [each.prompt for each in requests[: wanted.captions]]))
    if wanted.genome == RowsGenome.name:
        return RowsGenome(prepared.plan, prepared.schedule, cost)
    late = len(RowsGenome(prepared.plan, prepared.schedule, cost).shares)
    order = importance(pipeline, requests[:ORDERED_BY])[-late:]
    return DepthGenome(prepared.plan, prepared.schedule, cost, tuple(order)[::-1])


def importance(pipeline: Pipeline, requests: Sequence[Request]) -> list[tuple[int, ...]]:
    """Per scale the blocks, from the one that turns the hidden states least to the one that turns them most."""
    turned: dict[int, list[float]] = {}
    before: dict[int, Tensor] = {}

    def tap(name: str, k: int, x: Tensor) -> None:
        if name == "embed":
            before[k] = x
        elif name.startswith("block."):
            tokens = min(before[k].shape[1], x.shape[1])  # rows ahead of the tokens may have joined
            alike = F.cosine_similarity(before[k][:, -tokens:], x[:, -tokens:], dim=-1)
            turned.setdefault(k, []).append(1 - float(alike.mean()))
            before[k] = x

    for _ in pipeline.events(list(requests), output_type="latent", batch_size=len(requests), tap=tap):
        pass
    return [tuple(int(block) for block in np.argsort(turned[k], kind="stable")) for k in sorted(turned)]


def _told(strategy: Strategy, name: str, budget: float, told: Told, *options: Any) -> Genes:
    """The best plan of a search."""
    found = strategy(*options, lambda done, best: told(f"{name} for {budget:g}x", done, best))
    if not found:
        raise OptionError(f"{name} found no plan for a budget of {budget:g}")
    return next(iter(found))


def held(evaluation: Evaluation, chosen: dict[str, Genes], budget: float, captions: Sequence[int]) -> dict[str, Any]:
    """The plan that was found and its controls, on captions that were not searched on. The hand shape is the one that
    is best on the captions that were."""
    genome, searched = evaluation.genome, range(captions[0])
    shapes = {name: genome.projected(genes, budget) for name, genes in genome.shapes().items()}
    uniform, *others = shapes
    best = max(others, key=lambda name: evaluation.mean(shapes[name], searched))
    named = chosen | {"uniform": shapes[uniform], f"best hand shape: {best}": shapes[best]}
    own = np.array(evaluation(chosen["found"], captions))
    rows = []
    for name, genes in named.items():
        values = np.array(evaluation(genes, captions))
        apart = own - values
        rows.append(
            {
                "plan": name,
                "genes": genes,
                "fewer": genome.fewer(genes),
                "searched": evaluation.mean(genes, searched),
                "ssim": float(values.mean()),
                "error": _error(values),
                "behind": float(apart.mean()),
                "behind_error": _error(apart),
            }
        )
    return {"genes": chosen["found"], "rows": rows}


def _error(values: Any) -> float:
    """Standard error of a mean over captions."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5)


def _taken(pipeline: Pipeline, request: Request) -> list[str]:
    """The accelerators printed beside, as far as the model takes them."""
    found = []
    for text in BESIDE:
        try:
            pipeline.prepare(replace(request, accelerator=text))
        except OptionError:
            continue
        found.append(text)
    return found


def _beside(evaluation: Evaluation, accelerator: str, captions: Sequence[int]) -> dict[str, Any]:
    """SSIM of an accelerator on held-out captions, and its operations, means over its pictures."""
    evaluation.look(captions)
    values, costs = list[float](), list[int]()
    for start in range(0, len(captions), evaluation.batch_size):
        part = captions[start : start + evaluation.batch_size]
        drawn = draw(evaluation.pipeline, [evaluation.requests[i] for i in part], accelerator)
        plain = torch.stack([evaluation.plain[i] for i in part])
        values += ssim(drawn.pictures, plain).tolist()
        costs += map(evaluation.genome.cost, drawn.plans)
    fewer = evaluation.genome.cost(evaluation.genome.plain) * len(costs) / sum(costs)
    found = np.array(values)
    return {"accelerator": accelerator, "fewer": fewer, "ssim": float(found.mean()), "error": _error(found)}


def _plan(genome: Genome, found: dict[str, Any]) -> FoundPlan:
    row = found["rows"][0]
    return FoundPlan(genome.late(found["genes"]), row["fewer"], row["ssim"], row["error"])


def _chooser(evaluation: Evaluation, plans: Sequence[Genes], captions: Sequence[int]) -> Any:
    """A choice among several plans, fitted to the captions that were searched on."""
    if len(plans) < 2:
        return None
    schedule = evaluation.genome.schedule
    decides = len(schedule) - 1 - len(evaluation.genome.shares)
    evaluation.look(captions)
    seen = [numbers(evaluation.signals[i][decides]) for i in captions]
    return chooser(Scale(schedule, decides).share, seen, [evaluation(genes, captions) for genes in plans])
