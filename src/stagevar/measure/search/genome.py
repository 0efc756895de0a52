"""What a search varies: whole numbers, one tuple of them a plan, and the steps from one plan to others."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from stagevar.engine.grids.grid import Schedule, scales
from stagevar.engine.plan.parts import Layers
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError
from stagevar.plans import LEVELS, Late, LateScale, applied

SMALLEST = 0.25
"""Side of the first late scale relative to the final one."""
EIGHTHS = 8
"""Steps in which the blocks are counted whose self-attention is filled."""

Genes = tuple[int, ...]
Cost = Callable[[Plan], int]


@dataclass(frozen=True)
class Genome(ABC):
    """Plans that a search may try. The first genes are levels, one a late scale, from the last scale back: the higher,
    the more of the scale runs.

    Attributes:
        plain: the plan without an accelerator.
        schedule: grids of the scales.
        cost: operations of a plan.
    """

    name: ClassVar[str]
    plain: Plan
    schedule: Schedule
    cost: Cost

    @property
    def shares(self) -> list[float]:
        """Sides of the late scales, from the last one back."""
        return [at.share for at in reversed(scales(self.schedule)[1:]) if at.share >= SMALLEST - 1e-6]

    @property
    @abstractmethod
    def limits(self) -> tuple[tuple[int, int], ...]:
        """Lowest and highest value of every gene."""

    @abstractmethod
    def late(self, genes: Genes) -> Late:
        """The late scales of a plan, the first of them first."""

    @abstractmethod
    def shapes(self) -> Mapping[str, Genes]:
        """Plans as one would write them by hand, ``uniform`` first, before they are fitted to a budget."""

    def plan(self, genes: Genes) -> Plan:
        return applied(self.late(genes), self.plain, self.schedule)

    def fewer(self, genes: Genes) -> float:
        """Operations of the plain run over those of a plan."""
        return self.cost(self.plain) / self.cost(self.plan(genes))

    def projected(self, genes: Genes, budget: float) -> Genes:
        """The plan nearest to the budget: levels fall one by one, from the last scale back and around, until it holds;
        then they rise from the first late scale on, until one more step anywhere would break it.

        Args:
            budget: least operations of the plain run over those of the plan.

        Raises:
            OptionError: even the lowest levels cost more.
        """
        levels = range(len(self.shares))
        genes = tuple(min(max(value, low), high) for value, (low, high) in zip(genes, self.limits, strict=True))
        fallen = list(self._falling(genes))
        place = bisect_left(fallen, True, key=lambda lower: self.fewer(lower) >= budget)
        if place == len(fallen):
            raise OptionError(
                f"no plan of the genome {self.name!r} takes {budget:g}x fewer operations; its fastest takes "
                f"{self.fewer(fallen[-1]):.2f}x fewer"
            )
        genes = fallen[place]
        risen = True
        while risen:
            risen = False
            for i in reversed(levels):
                higher = _with(genes, i, genes[i] + 1)
                if genes[i] < self.limits[i][1] and self.fewer(higher) >= budget:
                    genes, risen = higher, True
        return genes

    def _falling(self, genes: Genes) -> Iterator[Genes]:
        """A plan, and those that come of it when one level after the other falls by one, to the lowest."""
        yield genes
        least = [low for low, _ in self.limits[: len(self.shares)]]
        while any(genes[i] > low for i, low in enumerate(least)):
            for i, low in enumerate(least):
                if genes[i] > low:
                    genes = _with(genes, i, genes[i] - 1)
                    yield genes

    def drawn(self, rng: random.Random) -> Genes:
        """Any plan."""
        return tuple(rng.randint(low, high) for low, high in self.limits)

    def mutated(self, genes: Genes, rng: random.Random) -> Genes:
        """One to three genes changed: levels by a step or by half of their range, others to any value."""
        for i in rng.sample(range(len(genes)), rng.randint(1, min(3, len(genes)))):
            low, high = self.limits[i]
            step = rng.choice((1, 2, max(1, (high - low) // 2))) * rng.choice((-1, 1))
            genes = _with(genes, i, min(high, max(low, genes[i] + step)))
        return genes

    @staticmethod
    def crossed(one: Genes, other: Genes, rng: random.Random) -> Genes:
        """Every gene from one of two plans."""
        return tuple(rng.choice(pair) for pair in zip(one, other, strict=True))


@dataclass(frozen=True)
class RowsGenome(Genome):
    """Rows of each late scale in sixteenths, how many of the last scales run one branch, whose rows are not cached.

    Then in how many eighths of the blocks self-attention is filled, and whether cross-attention is, at scales of fewer
    rows; whether all late rows attend to near keys alone; from which of the last scales on the history is thin.
    """

    name: ClassVar[str] = "rows"

    @property
    def limits(self) -> tuple[tuple[int, int], ...]:
        count = len(self.shares)
        cached = ((0, 0), *((0, 1),) * (count - 1))  # nothing reads the last scale's
        return (*((0, LEVELS),) * count, (0, count), *cached, (0, EIGHTHS), (0, 1), (0, 1), (0, count))

    def late(self, genes: Genes) -> Late:
        count = len(self.shares)
        single, forget, (filled, crossed, near, thin) = genes[count], genes[count + 1 : -4], genes[-4:]
        found = (
            LateScale(
                share,
                genes[i],
                single=i < single,
                forget=bool(forget[i]),
                filled=filled / EIGHTHS if genes[i] < LEVELS else 0.0,
                crossed=bool(crossed) and genes[i] < LEVELS,
                near=bool(near),
                thin=i == thin - 1,
            )
            for i, share in enumerate(self.shares)
        )
        return tuple(found)[::-1]

    def shapes(self) -> Mapping[str, Genes]:
        full = (LEVELS,) * len(self.shares)
        return {
            "uniform": self._shape(full, single=len(full)),
            "uniform, both branches": self._shape(full),
            "taper": self._shape((6, 10), single=3),
            "taper, two of one branch": self._shape((6, 10), single=2),
            "taper, both branches": self._shape((4, 8, 12)),
            "steep": self._shape((4, 16), single=3),
            "last scale skipped": self._shape((0,), single=3),
            "last scale skipped, both branches": self._shape((0,)),
        }

    def _shape(self, levels: Sequence[int], single: int = 0) -> Genes:
        """Levels of the last scales, all of the others; rows of reduced scales are not cached."""
        count = len(self.shares)
        whole = (*levels[:count], *(LEVELS,) * (count - len(levels)))
        return (*whole, min(single, count), *(int(0 < level < LEVELS) for level in whole), 0, 0, 0, 0)


@dataclass(frozen=True)
class DepthGenome(Genome):
    """How many blocks each late scale runs; those that change the hidden states least are left out first.

    Attributes:
        order: per late scale from the last one back, the blocks from the least to the most important one.
    """

    name: ClassVar[str] = "depth"
    order: tuple[tuple[int, ...], ...] = ()

    @property
    def limits(self) -> tuple[tuple[int, int], ...]:
        return tuple((1, len(blocks)) for blocks in self.order)

    def late(self, genes: Genes) -> Late:
        found = (
            LateScale(share, left_out=tuple(_stretches(order[: len(order) - run], len(order))))
            for share, order, run in zip(self.shares, self.order, genes, strict=True)
        )
        return tuple(found)[::-1]

    def shapes(self) -> Mapping[str, Genes]:
        full = tuple(len(blocks) for blocks in self.order)
        depth, count = full[0], len(full)
        ramps = {"taper": (0.4, 0.6, 0.8), "steep": (0.2, 0.6), "last scale": (0.2,), "last two": (0.4, 0.4)}
        ramps |= {
            "all but the last": (1.0,) + (0.5,) * (count - 1),
            "late half": (0.5, 0.5, 0.5),
            "rising": (0.8, 0.6, 0.4),
        }
        tapers = {name: tuple(round(depth * share) for share in ramp) for name, ramp in ramps.items()}
        return {"uniform": full} | {name: (*ramp, *full[len(ramp) :])[:count] for name, ramp in tapers.items()}


def _with(genes: Genes, place: int, value: int) -> Genes:
    return (*genes[:place], value, *genes[place + 1 :])


def _stretches(blocks: Sequence[int], depth: int) -> Iterator[Layers]:
    """Consecutive blocks as shares of the depth."""
    ordered = sorted(blocks)
    while ordered:
        count = next((i for i, block in enumerate(ordered) if block != ordered[0] + i), len(ordered))
        yield ordered[0] / depth, (ordered[0] + count) / depth
        ordered = ordered[count:]
