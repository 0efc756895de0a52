"""Images that have shared every pass so far, hence one cache. A cohort splits when plans part or images leave; it never
merges."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stagevar.engine.contract.block import Condition
from stagevar.engine.grids.grid import Scale, scales
from stagevar.engine.grids.rows import Branch
from stagevar.engine.grids.sent import sent
from stagevar.engine.loop.cache import KVCache
from stagevar.engine.loop.call import Call, Output
from stagevar.engine.loop.places import KeyPlaces
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.parts import rule_at
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.reads import Read


@dataclass(slots=True)
class Cohort:
    """State of a cohort between two scales.

    Attributes:
        images: indices within the call.
        branch: whose rows are alive; both means the prompts' rows before the null rows.
        condition, cache, places: of these rows.
        memory: maps of earlier scales that a later one needs.
        latent: (n, D, H, W).
        change: (n, D, H, W), what the last scale that ran added to it.
        outputs: by scale, what a pass has yielded whose codes are not added yet.
        codes: of the last scale, int64 (n, M) or (n, M, d), -1 at positions that have got none.
    """

    images: tuple[int, ...]
    branch: Branch
    condition: Condition
    cache: KVCache
    places: KeyPlaces
    memory: Memory
    latent: Tensor
    change: Tensor
    outputs: dict[int, Output] = field(default_factory=dict)
    codes: Tensor = field(init=False)

    @classmethod
    def start(cls, call: Call, condition: Condition) -> Cohort:
        """All images of a call, both branches."""
        images = tuple(range(len(call.plans)))
        latent = call.model.empty_latent(len(images), call.schedule)
        cache = KVCache(call.model.depth, capacities(call, images[0]), stored_in(call.plans[0]))
        return cls(images, "both", condition, cache, KeyPlaces(call.model.depth), Memory(), latent, latent)

    @property
    def detail(self) -> Tensor | None:
        """(n, 1, h, w) where the pictures that the images begin with have contrast, or None."""
        found = self.condition.detail
        return None if found is None else found[: len(self.images)]

    def split(self, call: Call, k: int) -> list[Cohort]:
        """Regroup those images that are still wanted by the shape of their plans at scale k and at those that share its
        pass. Until all codes of a pass are added its images stay together."""
        if self.outputs:
            return [self]
        groups: dict[object, list[int]] = {}
        for position, image in enumerate(self.images):
            if not call.wanted(image):
                continue
            plan = call.plans[image]
            members = plan.pass_of(k)
            shapes = tuple(plan[j].shape for j in members)
            groups.setdefault((members, shapes, after(plan, members[-1])), []).append(position)
        if [len(positions) for positions in groups.values()] == [len(self.images)]:
            return [self]
        return [self._part(positions, call) for positions in groups.values()]

    def _part(self, positions: list[int], call: Call) -> Cohort:
        n, device = len(self.images), self.latent.device
        kept = [*positions, *(position + n for position in positions)] if self.branch == "both" else positions
        at, rows = (sent(torch.tensor(each), device) for each in (positions, kept))
        images = tuple(self.images[position] for position in positions)
        return Cohort(
            images,
            self.branch,
            self.condition.take(kept),
            self.cache.take(rows, capacities(call, images[0]), stored_in(call.plans[images[0]])),
            self.places.take(rows),
            self.memory.take(rows, at),
            self.latent[at],
            self.change[at],
        )

    def narrow(self, branch: Branch) -> None:
        """Drop the rows of the branch that ended and free their cache at once."""
        if self.branch == branch:
            return
        n = len(self.images)
        first = n if branch == "null" else 0
        images = torch.arange(n, device=self.latent.device)
        rows = images + first
        self.condition = self.condition.take(range(first, first + n))
        self.cache.narrow(rows)
        self.places = self.places.take(rows)
        self.memory = self.memory.take(rows, images)
        self.branch = branch


def capacities(call: Call, image: int) -> list[int]:
    """Cache length to preallocate per layer for a cohort with this image: the most that its plan holds at once, of all
    scales that cache rows except the last executed one. Images share what they cache until they part; then each part
    has storage of its own."""
    model, plan = call.model, call.plans[image]
    most = [0] * model.depth
    rows = tuple(model.rows(at) for at in scales(call.schedule))
    for layer in range(model.depth if model.causal else 0):
        held = 0
        for k in plan.executed[:-1]:
            at, rule = Scale(call.schedule, k), rule_at(plan[k].parts, layer, "attention", model.depth)
            kept = plan[k].cache
            if kept == "none":
                continue
            held += rows[k] if rule is None else rows[k] - at.tokens + rule.count(at.tokens)
            most[layer] = max(most[layer], held)
            if not isinstance(kept, str):
                held = min(held, kept.capacity(at, rows, layer))
    return most


def stored_in(plan: Plan) -> torch.dtype | None:
    """Dtype of the cache; None is that of the blocks."""
    return torch.bfloat16 if plan[0].store == "bfloat16" else None


def after(plan: Plan, k: int) -> tuple[frozenset[Read], bool] | None:
    """What later scales will want to find: maps in memory, and whether the places of keys; None if none runs."""
    return (plan.read_later(k), plan.placed) if plan.executed[-1] > k else None
