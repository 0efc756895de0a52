"""Ways to find a plan for a budget, tried on equally many plans: ``python benchmarks/searches.py``.

Our evolution, random search, and NSGA-II of Optuna with all its plans fitted to the budget, each through the same
halving of captions, beside hand shapes; figures are of captions that were not searched on, with other noise per seed.
Optuna is no dependency of the package: ``pip install optuna==5.0.0``. Appends a run to ``results/searches.jsonl``, of
another model than scenes to a file that begins with its name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from store import append, arguments

from stagevar.machine import machine
from stagevar.measure.search.evolve import CHILDREN, Halving, evolve, scatter
from stagevar.measure.search.genome import Genes, Genome
from stagevar.measure.search.search import Search, Strategy, evaluated, held
from stagevar.pipeline import Pipeline

Told = Callable[[int, float], None]
SPREAD = 1000
"""Distance of the seeds of two searches, so that they share no noise."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--genome", default="rows")
    parser.add_argument("--budget", type=float, default=4.0)
    parser.add_argument("--captions", type=int, default=48)
    parser.add_argument("--held-out", type=int, default=48)
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--journals", type=Path, help="Folder of what is known already, to go on from.")
    options = parser.parse_args()
    pipe, began, runs = Pipeline.from_pretrained(options.model, device=options.device, dtype="float32"), time.time(), []
    for seed in options.seeds:
        wanted = Search(
            budgets=(options.budget,),
            captions=options.captions,
            held_out=options.held_out,
            evaluations=options.evaluations,
            genome=options.genome,
            seed=SPREAD * seed,
        )
        journal = options.journals and options.journals / f"{options.genome}-{seed}.jsonl"
        evaluation = evaluated(pipe, wanted, (), journal, {})
        halving, chosen = Halving(evaluation, wanted.rungs), dict[str, Genes]()
        for name in options.strategies:

            def told(done: int, best: float, name: str = name, seed: int = seed) -> None:
                print(f"seed {seed}, {name}: {done} plans, best {best:.4f}, {time.time() - began:.0f} s", flush=True)

            found = STRATEGIES[name](evaluation.genome, options.budget, options.evaluations, halving, wanted.seed, told)
            chosen[name] = next(iter(found))
        later = range(wanted.captions, len(evaluation.requests))
        runs.append({"seed": seed, **held(evaluation, chosen, options.budget, later)})
    report = {
        **machine(pipe.model),
        "model": pipe.model.name,
        "genome": options.genome,
        **{name: getattr(options, name) for name in ("budget", "captions", "held_out", "evaluations")},
        "runs": runs,
        "rows": pooled([run["rows"] for run in runs]),
    }
    name = "searches" if options.model == "scenes" else f"{pipe.model.name}_searches"
    append(name, options.device, report, options.out)


def nsga2(
    genome: Genome, budget: float, evaluations: int, halving: Halving, seed: int, told: Told
) -> dict[Genes, float]:
    """NSGA-II of Optuna, whose default sampler is another; a plan that halving left behind counts by its last mean."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(population_size=CHILDREN, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    best, tried = dict[Genes, float](), set[Genes]()
    while count := min(CHILDREN, evaluations - study_size(study)):
        trials = [study.ask() for _ in range(count)]
        drawn = [
            tuple(trial.suggest_int(str(i), low, high) for i, (low, high) in enumerate(genome.limits))
            for trial in trials
        ]
        plans = [genome.projected(genes, budget) for genes in drawn]
        finished = halving(plans)
        for trial, genes in zip(trials, plans, strict=True):
            study.tell(trial, finished.get(genes) or halving.evaluation.mean(genes, range(halving.rungs[0])))
        best |= finished
        tried |= set(plans)
        told(study_size(study), max(best.values()))
    return dict(sorted(best.items(), key=lambda item: -item[1]))


def study_size(study: Any) -> int:
    return len(study.trials)


def pooled(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Means over seeds; the best hand shape of each counts as one plan."""
    rows = []
    for own in zip(*seeds, strict=True):
        error, behind = (math.hypot(*(row[name] for row in own)) / len(own) for name in ("error", "behind_error"))
        rows.append(
            {
                "plan": own[0]["plan"].partition(":")[0],
                "fewer": fmean(row["fewer"] for row in own),
                "ssim": fmean(row["ssim"] for row in own),
                "error": error,
                "behind": fmean(row["behind"] for row in own),
                "behind_error": behind,
            }
        )
    return rows


STRATEGIES: Mapping[str, Strategy] = {"found": evolve, "random": scatter, "NSGA-II": nsga2}


if __name__ == "__main__":
    main()
