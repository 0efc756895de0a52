"""Evolution under an exact budget: the best few plans stay, their children are tried on few captions first."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stagevar.measure.search.evaluate import Evaluation
from stagevar.measure.search.genome import Genes, Genome

SURVIVORS, CHILDREN = 4, 16
FRESH = 0.15
"""Share of the children that descend from no survivor."""


@dataclass(frozen=True)
class Halving:
    """Tries plans on more and more captions; on each rung the better half goes on.

    Attributes:
        evaluation: draws them.
        rungs: captions of each rung, the last of them all that are searched on.
    """

    evaluation: Evaluation
    rungs: tuple[int, ...]

    def __call__(self, plans: Sequence[Genes]) -> dict[Genes, float]:
        """Mean SSIM over all captions, of the plans that have reached the last rung, best first."""
        left = list(dict.fromkeys(plans))
        for rung, count in enumerate(self.rungs):
            scores = {genes: self.evaluation.mean(genes, range(count)) for genes in left}
            left = sorted(scores, key=lambda genes: -scores[genes])
            if rung + 1 < len(self.rungs):
                left = left[: max(1, (len(left) + 1) // 2)]
        return {genes: scores[genes] for genes in left}


def evolve(
    genome: Genome, budget: float, evaluations: int, halving: Halving, seed: int, told: Callable[[int, float], None]
) -> dict[Genes, float]:
    """Search for a budget: hand shapes first, then generations of children.

    Args:
        genome: of the plans.
        budget: least operations of the plain run over those of a plan.
        evaluations: plans that are tried.
        halving: tries them.
        seed: of the search.
        told: plans tried so far, and the best mean SSIM.

    Returns:
        The survivors, best first.
    """
    rng = random.Random(seed)
    tried = set[Genes]()
    survivors = dict[Genes, float]()
    start = list(dict.fromkeys(genome.projected(genes, budget) for genes in genome.shapes().values()))
    generation = start[:evaluations]
    while generation:
        tried |= set(generation)
        found = survivors | halving(generation)
        survivors = dict(sorted(found.items(), key=lambda item: -item[1])[:SURVIVORS])
        told(len(tried), max(survivors.values()))
        wanted = min(CHILDREN, evaluations - len(tried))
        generation = new(_children(genome, list(survivors), rng), genome, budget, wanted, tried)
    return survivors


def scatter(
    genome: Genome, budget: float, evaluations: int, halving: Halving, seed: int, told: Callable[[int, float], None]
) -> dict[Genes, float]:
    """Random search, the control of ``evolve``: as many plans drawn at random, the same halving."""
    rng = random.Random(seed)
    tried, best = set[Genes](), dict[Genes, float]()
    anything = (genome.drawn(rng) for _ in iter(int, 1))
    while wanted := min(CHILDREN, evaluations - len(tried)):
        generation = new(anything, genome, budget, wanted, tried)
        if not generation:
            break
        tried |= set(generation)
        found = best | halving(generation)
        best = dict(sorted(found.items(), key=lambda item: -item[1])[:SURVIVORS])
        told(len(tried), max(best.values()))
    return best


def _children(genome: Genome, parents: Sequence[Genes], rng: random.Random) -> Iterator[Genes]:
    """Mutated children of one or two parents, and a few of none."""
    while True:
        if rng.random() < FRESH:
            yield genome.drawn(rng)
        else:
            yield genome.mutated(genome.crossed(rng.choice(parents), rng.choice(parents), rng), rng)


def new(source: Iterator[Genes], genome: Genome, budget: float, wanted: int, tried: set[Genes]) -> list[Genes]:
    """The next plans of a source, fitted to the budget, that were not tried; fewer where it yields nothing new."""
    found: dict[Genes, None] = {}
    for _ in range(50 * wanted):
        if len(found) >= wanted:
            break
        genes = genome.projected(next(source), budget)
        if genes not in tried:
            found[genes] = None
    return list(found)
