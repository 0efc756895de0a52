"""Images that have shared every pass so far, hence one cache. A cohort splits when plans part; it never merges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.grids.rows import Branch
from stagevar.engine.loop.cache import KVCache
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.plan import Plan


@dataclass(slots=True)
class Cohort:
    """State of a cohort between two scales.

    Attributes:
        images: indices within the call.
        branch: whose rows are alive; both means the prompts' rows before the null rows.
        condition, cache: of these rows.
        memory: maps of earlier scales that a later one needs.
        latent: (n, D, H, W).
        change: (n, D, H, W), what the last scale that ran added to it.
    """

    images: tuple[int, ...]
    branch: Branch
    condition: Condition
    cache: KVCache
    memory: Memory
    latent: Tensor
    change: Tensor

    @classmethod
    def start(cls, model: ScaleModel, condition: Condition, schedule: Schedule, plans: Sequence[Plan]) -> Cohort:
        """All images of a call, both branches."""
        latent = model.empty_latent(len(plans), schedule)
        cache = KVCache(model.depth, capacity(model, schedule, plans))
        return cls(tuple(range(len(plans))), "both", condition, cache, Memory(), latent, latent)

    def split(self, k: int, model: ScaleModel, schedule: Schedule, plans: Sequence[Plan]) -> list[Cohort]:
        """Regroup by the shape of the images' plans at scale k."""
        groups: dict[object, list[int]] = {}
        for position, image in enumerate(self.images):
            plan = plans[image]
            groups.setdefault((plan[k].shape, k == plan.executed[-1], after(plan, k)), []).append(position)
        if len(groups) == 1:
            return [self]
        return [self._part(positions, model, schedule, plans) for positions in groups.values()]

    def _part(self, positions: list[int], model: ScaleModel, schedule: Schedule, plans: Sequence[Plan]) -> Cohort:
        at = torch.tensor(positions, device=self.latent.device)
        rows = torch.cat([at, at + len(self.images)]) if self.branch == "both" else at
        images = tuple(self.images[position] for position in positions)
        return Cohort(
            images,
            self.branch,
            self.condition.take(rows),
            self.cache.take(rows, capacity(model, schedule, [plans[image] for image in images])),
            self.memory.take(rows, at),
            self.latent[at],
            self.change[at],
        )

    def narrow(self, branch: Branch) -> None:
        """Drop the rows of the branch that ended and free their cache at once."""
        if self.branch == branch:
            return
        n = len(self.images)
        images = torch.arange(n, device=self.latent.device)
        rows = images + (n if branch == "null" else 0)
        self.condition = self.condition.take(rows)
        self.cache.narrow(rows)
        self.memory = self.memory.take(rows, images)
        self.branch = branch


def capacity(model: ScaleModel, schedule: Schedule, plans: Sequence[Plan]) -> int:
    """Cache positions that any of the plans needs: all scales that keep their rows but the last that runs."""
    if not model.causal:
        return 0
    return max(sum(model.rows(schedule, k) for k in plan.executed[:-1] if plan[k].cache == "all") for plan in plans)


def after(plan: Plan, k: int) -> tuple[object, ...]:
    """What the next scale that runs will want to find in memory."""
    later = next((plan[j] for j in plan.executed if j > k), None)
    return () if later is None else (later.run, later.tokens, any(plan[j].carry > 0 for j in plan.executed if j > k))
