"""SparseVAR: tokens that a scale has hardly changed leave the next scales before the first block.

Idea: how much a few blocks change a token says whether it still moves. The share of tokens that change by more than a
threshold, relative to the one that changes most, is the share that the later scales run. Those that changed most run,
and with them a sparse, even grid of anchors. A token that does not run copies the output of an anchor near by if the
scale before gave the two nearly the same logits, and draws its own codes from it. All others add no codes.

No code of the authors was found; the source is a port in Weepingchestnut/Lvar. What it runs for Infinity, and the
defaults here: from 40x40 of 64x64 on, activity of the fourth of eight groups of blocks, threshold .6, anchors at every
fourth row and column and at the last ones, the best of the four nearest anchors by cosine, .8 as the least one.

Deviations. Activity and logits are those of the last scale that runs all rows, since of later ones only some tokens
have any; the port goes on with zeros, so that a token once left out never returns. So the share is decided once a
picture. It is rounded up to eighths, so that pictures of a batch can share passes; at least an eighth runs. Anchors
always run; the port leaves them out in batches of one, and then copies inputs for outputs. Logits are compared token by
token, where the port compares shuffled ones. The port's probes of attention, which it throws away, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.accelerators.base import Accelerator, Claim, Facts, Reason
from stagevar.engine.grids.grid import Grid, Scale, Schedule, scales
from stagevar.engine.grids.rows import gather, gather_rope, scatter
from stagevar.engine.plan.memory import LAST, MapKind
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.reads import Read
from stagevar.engine.plan.select import highest
from stagevar.engine.plan.signals import Signal, Signals
from stagevar.engine.plan.tokens import Reduced, Scope, TokenContext
from stagevar.engine.plan.watch import Activity, Seen, Watch
from stagevar.errors import OptionError

STEPS = 8
"""The share of tokens that run is a multiple of 1 / STEPS."""

NEAREST = 4
"""Anchors that a token may copy."""


@dataclass(frozen=True, slots=True)
class Moving(Activity):
    """Activity, whose number is the share of tokens that change by more than ``threshold`` of the largest change.
    Typical are means over eight captions."""

    typical: ClassVar[tuple[tuple[float, ...], ...]] = ((0.0, 0.26), (0.25, 0.39), (0.5, 0.38), (1.0, 0.25))
    threshold: float = 0.6

    def numbers(self, seen: Seen) -> Tensor:
        assert seen.map is not None
        least = self.threshold * seen.map.amax(1, keepdim=True)
        return (seen.map > least).float().mean(1, keepdim=True)


@dataclass(frozen=True, slots=True)
class Anchored:
    """Process the tokens that changed most, and anchors; the others copy the output of an anchor or stay as they are.
    As a gain, codes of the latter do not count.

    Attributes:
        keep: share of the tokens that run besides anchors, in (0, 1].
        order: the watch that says how much tokens change.
        every: rows and columns from one anchor to the next.
        alike: least cosine of the logits of a token and the anchor that it copies.
        source: index of the scale that was watched.
        scope, dense, needs, final, aligned: see ``stagevar.engine.plan.tokens.Tokens``.
    """

    keep: float
    order: Moving
    every: int
    alike: float
    source: int
    scope: Scope = "network"
    dense: tuple[float, float] = (0.0, 0.0)
    final: bool = False
    aligned: bool = True

    @property
    def needs(self) -> tuple[MapKind | Watch, ...]:
        return ("logits", self.order)

    def index(self, context: TokenContext) -> Tensor:
        """Tokens (n, r) that run, ascending: as many of the largest change as share and anchors have in sum."""
        M = context.grid[0] * context.grid[1]
        scores = self.order.scores(context.watched(self.order))
        anchors = anchor_places(context.grid, self.every, scores.device)
        scores = scores / scores.amax(1, keepdim=True).clamp(min=1e-20)
        scores = scores.index_fill(1, anchors, 2.0)
        return highest(scores, min(M, len(anchors) + math.floor(self.keep * M)))

    def copied(self, context: TokenContext) -> tuple[Tensor, Tensor]:
        """The anchor that each token is most like (n, M), and whether it is like enough to copy it (n, M)."""
        logits = F.normalize(context.memory.get("logits", LAST, self.source, context.grid), dim=-1)
        near = nearest_anchors(context.grid, self.every, logits.device)
        likeness = torch.stack([(logits * logits[:, each]).sum(-1) for each in near.unbind(1)], 2)
        best = likeness.max(2)
        return near.expand(len(logits), -1, -1).gather(2, best.indices[..., None])[..., 0], best.values > self.alike

    def reduce(self, x_RMC: Tensor, context: TokenContext) -> Reduced:
        index = self.index(context).repeat(len(x_RMC) // len(context.latent), 1)
        return Reduced(gather(x_RMC, index), gather_rope(context.rope, index), index)

    def restore(self, x_RMC: Tensor, y_RrC: Tensor, reduced: Reduced, context: TokenContext) -> Tensor:
        assert reduced.index is not None
        place, like = (each.repeat(len(x_RMC) // len(context.latent), 1) for each in self.copied(context))
        restored = scatter(x_RMC, reduced.index, y_RrC)
        return scatter(torch.where(like[..., None], gather(restored, place), restored), reduced.index, y_RrC)

    def __call__(self, context: TokenContext, /) -> Tensor:
        """As a gain: codes count where a token runs or copies an anchor."""
        return self.copied(context)[1].float().scatter(1, self.index(context), 1.0)


def anchor_places(grid: Grid, every: int, device: torch.device) -> Tensor:
    """Raster positions of the anchors: every so many rows and columns, and the last ones."""
    y, x = (torch.tensor(sorted({*range(0, side, every), side - 1}), device=device) for side in grid)
    return (y[:, None] * grid[1] + x).flatten()


def nearest_anchors(grid: Grid, every: int, device: torch.device) -> Tensor:
    """Raster positions (M, at most 4) of the anchors nearest to each token, the nearest first."""
    anchors = anchor_places(grid, every, device)
    place = torch.arange(grid[0] * grid[1], device=device)[:, None]
    apart = (place // grid[1] - anchors // grid[1]).square() + (place % grid[1] - anchors % grid[1]).square()
    first = torch.arange(len(anchors), device=device)  # of equally near anchors the first
    return anchors[(apart * len(anchors) + first).topk(min(NEAREST, len(anchors)), 1, largest=False).indices]


@dataclass(frozen=True)
class SparseVAR(Accelerator):
    """Tokens that have hardly changed leave the last scales; some copy an anchor near by, the others add no codes.

    Combines with what decides other axes: ``drop_last``, ``guidance_off``, ``sparvar``, ``scalekv``.

    Attributes:
        first: tokens leave from this side of the grid on, relative to the final one.
        threshold: change that counts, relative to the largest.
        every: rows and columns from one anchor to the next.
        alike: least cosine of the logits of a token and the anchor that it copies.
        layers: blocks whose change is measured, as shares of the depth.
    """

    name: ClassVar[str] = "sparsevar"
    owns: ClassVar[frozenset[str]] = frozenset({"tokens", "gain"})
    online: ClassVar[bool] = True
    signals: ClassVar[frozenset[Signal]] = frozenset()
    citation: ClassVar[str] = "SparseVAR, ICCV 2025; port in Lvar"
    source: ClassVar[str] = "Weepingchestnut/Lvar"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("Infinity-2B, 1024x1024", 2.0, "minimal loss, by the abstract"),
        Claim("HART, 1024x1024", 1.4, "GenEval .51 to .50, DPG 74.87 to 74.45"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"threshold": 0.0}
    first: float = 0.6
    threshold: float = 0.6
    every: int = 4
    alike: float = 0.8
    layers: tuple[float, float] = (3 / 8, 4 / 8)

    def __post_init__(self) -> None:
        for name, low in (("first", 0.0), ("threshold", 0.0), ("alike", -1.0)):
            if not low <= getattr(self, name) <= 1:
                raise OptionError(f"sparsevar: {name} must lie in [{low:g}, 1], not {getattr(self, name)}")
        if self.every < 1:
            raise OptionError(f"sparsevar: every must be 1 or more, not {self.every}")
        self._order()

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        source, late = self._scales(plan, schedule)
        if not late:
            return plan
        if source is None:
            raise OptionError(
                f"{self}: no scale that runs all tokens comes before side {self.first:g} of the final grid"
            )
        kept = Read("watched", source, self._order()), Read("logits", source)
        plan = plan.replace([source], watch=(*plan[source].watch, self._order()))
        return plan.replace(late, remember=kept)

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        source, late = self._scales(plan, at.schedule)
        if at.k != source:
            return plan
        share = self.reasons(plan, at, signals)[0].value
        keep = max(1, math.ceil(share * STEPS)) / STEPS
        if keep == 1:
            return plan
        tokens = Anchored(keep, self._order(), self.every, self.alike, at.k)
        return plan.replace(late, tokens=tokens, gain=tokens)

    def reasons(self, plan: Plan, at: Scale, signals: Signals) -> tuple[Reason, ...]:
        """The share of tokens that still change."""
        numbers = signals.watched.get(self._order(), ())
        return tuple(Reason("tokens that still change", share) for share in numbers)

    def _order(self) -> Moving:
        return Moving(self.layers, self.threshold)

    def _scales(self, plan: Plan, schedule: Schedule) -> tuple[int | None, list[int]]:
        """The scale that decides, and those that tokens leave."""
        late = [at.k for at in scales(schedule) if at.share >= self.first and plan[at.k].run == "full"]
        before = [k for k in plan.executed if late and k < late[0] and plan[k].run == "full" and plan[k].tokens is None]
        return (before[-1] if before else None), late
