"""Random projection of rows and their restoration, as in StageVAR (arXiv 2512.16483): blocks process random mixtures of
rows in place of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from stagevar.engine.grids.rows import gather_rope, scatter
from stagevar.engine.grids.sent import sent
from stagevar.engine.plan.memory import MapKind
from stagevar.engine.plan.tokens import Reduced, Scope, TokenContext
from stagevar.errors import OptionError

Rotary = Literal["first", "drawn"]


class Draws(Protocol):
    """Where a sketch takes its random numbers from."""

    def rows(self, law_RM: Tensor, count: int, context: TokenContext) -> Tensor:
        """(R, r) distinct positions, drawn in proportion to ``law``, in the order in which they were drawn."""
        ...

    def projection(self, count: int, context: TokenContext) -> Tensor:
        """(R, M, r) or (M, r) normal numbers of variance 1 / r."""
        ...


@dataclass(frozen=True, slots=True)
class SeededDraws:
    """Random numbers of a stream per image, scale and group, so that a picture's draws depend on its seed alone."""

    def rows(self, law_RM: Tensor, count: int, context: TokenContext) -> Tensor:
        """Exponential races: the r smallest of E / p are a draw without replacement (Efraimidis and Spirakis, 2006)."""
        races = [
            torch.from_numpy(self._stream(seed, context, 0).exponential(size=law_RM.shape[1])) for seed in context.seeds
        ]
        keys = sent(torch.stack(races).to(law_RM.dtype), law_RM.device) / law_RM.clamp(min=1e-20)
        return keys.topk(count, dim=1, largest=False).indices

    def projection(self, count: int, context: TokenContext) -> Tensor:
        M = context.grid[0] * context.grid[1]
        normal = [
            torch.from_numpy(self._stream(seed, context, 1).standard_normal((M, count), dtype=np.float32))
            for seed in context.seeds
        ]
        return sent(torch.stack(normal), context.change.device) / math.sqrt(count)

    @staticmethod
    def _stream(seed: int, context: TokenContext, kind: int) -> np.random.Generator:
        tag = 2**32 + (context.scale * 1024 + context.group) * 2 + kind
        return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, tag], dtype=np.uint64)))


@dataclass(frozen=True, slots=True)
class Sketch:
    """Run each group of blocks on r random mixtures Y = Q^T X, then write row j of the result over row I_j of the same
    group's output at the scale before.

    r = floor(ratio * M) + 1 per group. There is no identity setting: even r = M mixes the rows.

    Attributes:
        ratios: share of the rows per group.
        rotary: positions of the mixtures, those of the scale's ``first`` r tokens or of the ``drawn`` rows I.
        draws: source of random numbers.
        scope, dense, needs, source, final, aligned: see ``stagevar.engine.plan.tokens.Tokens``.
    """

    ratios: tuple[float, ...]
    rotary: Rotary = "first"
    draws: Draws = field(default=SeededDraws(), repr=False)
    scope: Scope = "group"
    dense: tuple[float, float] = (0.0, 0.0)
    needs: tuple[MapKind, ...] = ("hidden",)
    source: int | None = None
    final: bool = False
    aligned: bool = True

    def reduce(self, x_RMC: Tensor, context: TokenContext) -> Reduced:
        if len(self.ratios) != context.groups:
            raise OptionError(
                f"the sketch has {len(self.ratios)} ranks but the model has {context.groups} groups of blocks"
            )
        M = x_RMC.shape[1]
        count = min(M, math.floor(self.ratios[context.group] * M) + 1)
        energy = x_RMC.float().square().sum(-1)
        index = self.draws.rows(energy / energy.sum(1, keepdim=True), count, context)
        mixtures = self.draws.projection(count, context).mT @ x_RMC.float()
        place = torch.arange(count, device=index.device).expand_as(index) if self.rotary == "first" else index
        return Reduced(mixtures, gather_rope(context.rope, place), index)

    def restore(self, x_RMC: Tensor, y_RrC: Tensor, reduced: Reduced, context: TokenContext) -> Tensor:
        assert reduced.index is not None
        return scatter(context.earlier("hidden", "area"), reduced.index, y_RrC)
