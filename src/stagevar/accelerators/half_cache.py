"""Keys and values of earlier scales are kept in bfloat16, whatever the dtype of the blocks.

Idea: the cache is the largest part of a run's memory at one megapixel, and attention averages over its rows. A cache
of half the bytes costs one conversion of a layer's rows at each scale and rounds each entry by up to 1/256 of itself.
Weights, sums and soft-max stay in the dtype of the blocks. With blocks in bfloat16 nothing changes.

No publication: a control for methods that thin the cache (``scalekv``), and what ``max_memory`` chooses where not even
one picture would fit otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stagevar.accelerators.base import Accelerator, Facts
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.plan.plan import Plan


@dataclass(frozen=True)
class HalfCache(Accelerator):
    """Keeps keys and values in bfloat16. Combines with all accelerators."""

    name: ClassVar[str] = "half_cache"
    owns: ClassVar[frozenset[str]] = frozenset({"store"})

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        return plan.replace(range(len(plan)), store="bfloat16")
