"""One scale of one pass of one cohort: what its parts ask about the plan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.grids.grid import Scale, scales
from stagevar.engine.loop.call import Call
from stagevar.engine.loop.cohort import Cohort
from stagevar.engine.loop.places import row_places
from stagevar.engine.loop.watching import Watching
from stagevar.engine.plan.look import Look, Places
from stagevar.engine.plan.memory import MapKind
from stagevar.engine.plan.parts import Rows
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.engine.plan.reads import Read, guided
from stagevar.engine.plan.tokens import TokenContext


@dataclass(frozen=True)
class Pass:
    """The passage of one cohort through the network at scale k, alone or beside other scales."""

    call: Call
    cohort: Cohort
    k: int

    @cached_property
    def at(self) -> Scale:
        return Scale(self.call.schedule, self.k)

    @cached_property
    def here(self) -> list[ScalePlan]:
        """Each image's plan at this scale."""
        return [self.call.plans[image][self.k] for image in self.cohort.images]

    @property
    def whole(self) -> Plan:
        """The first image's plan of all scales, for what the images of a cohort have in common."""
        return self.call.plans[self.cohort.images[0]]

    @property
    def plan(self) -> ScalePlan:
        """The plan of the first image, for all that the images of a cohort have in common."""
        return self.here[0]

    @cached_property
    def last(self) -> bool:
        """Whether no scale runs behind this one."""
        return self.whole.executed[-1] <= self.k

    @cached_property
    def read_later(self) -> frozenset[Read]:
        """What later scales read of this one and of those before it."""
        return self.whole.read_later(self.k)

    @cached_property
    def written(self) -> frozenset[Read]:
        """What later scales read of this one."""
        return frozenset(read for read in self.read_later if read.scale == self.k)

    @cached_property
    def members(self) -> tuple[int, ...]:
        """The scales that share the pass, this one included."""
        return self.whole.pass_of(self.k)

    @property
    def before(self) -> int:
        """The last scale that ran before the pass, -1 if none did."""
        return max((j for j in self.whole.executed if j < self.members[0]), default=-1)

    @cached_property
    def placed(self) -> bool:
        """Whether the places of keys are noted, since a pattern or an eviction reads them or may come to."""
        return self.call.revised or self.whole.placed

    @cached_property
    def sequence(self) -> tuple[int, ...]:
        """Rows of each scale."""
        return tuple(self.call.model.rows(at) for at in scales(self.call.schedule))

    def row_places(self, rows: Rows, chosen: Tensor | None, device: torch.device) -> Places:
        """Places of rows of this scale's stream in the whole sequence; ``chosen`` (R, m) of them, None for all."""
        return row_places(rows, self.at.grid, sum(self.sequence[: self.k]), chosen, device)

    @cached_property
    def guided(self) -> int | None:
        """The last scale so far whose guidance difference a scale with one branch may carry."""
        return guided(self.whole.scales, self.k)

    def source(self, *kinds: MapKind) -> int:
        """The scale whose maps of these kinds this one reads, -1 if it reads none."""
        read = self.whole.reads[self.k]
        return next((each.scale for each in read if each.kind in kinds), -1)

    def context(self, source: int, group: int = 0, rope: Tensor | None = None) -> TokenContext:
        """What a reduction of rows or a gain may look at, with maps of scale ``source``."""
        cohort = self.cohort
        return TokenContext(
            scale=self.k,
            grid=self.at.grid,
            group=group,
            groups=self.call.model.groups,
            rope=rope,
            seeds=[self.call.seeds[image] for image in cohort.images] * (cohort.condition.rows // len(cohort.images)),
            latent=cohort.latent,
            change=cohort.change,
            memory=cohort.memory,
            source=source,
            detail=cohort.detail,
        )

    def look(self, layer: int, queries: Places, keys: Places) -> Look:
        """What a pattern or an eviction may see of a layer."""
        return Look(self.at, layer, self.call.model.depth, self.sequence, queries, keys, self.cohort.memory)

    def drawing(self, index: Tensor | None, known: Tensor | None) -> Drawing:
        """How codes are drawn from rows at the given positions, some of which may be known."""
        seeds = [self.call.seeds[image] for image in self.cohort.images]
        return Drawing(self.at, self.cohort.condition, self.here, seeds, self.call.noise, index, known)

    @cached_property
    def watching(self) -> Watching:
        """What takes the signals that the plan watches."""
        return Watching(self.call.model, self.at, self.plan.watch, len(self.cohort.images))

    def show(self, name: str, tensor: Tensor) -> None:
        if self.call.tap is not None:
            self.call.tap(name, self.k, tensor)
