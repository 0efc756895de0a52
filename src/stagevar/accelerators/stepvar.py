"""StepVAR: late scales process the tokens of structure and of texture.

Idea: a token matters at a late scale if it stands out along the direction in which the tokens differ most (structure),
or if it differs from its neighbours (texture). The network processes the tokens of highest mixed score. Each of the
others takes the output of the nearest token that was processed, and draws its own codes from it.

Claimed are 1.4x to 2x; quality falls once more than 70% of the tokens are left out.

The source is a description of the paper; no code was found. It leaves open which scales leave out how much, how the two
scores are weighted, how many iterations find the direction, and whether the two branches choose alike. Our choices: the
shares that FastVAR takes on HART, at which both are given 1.4x there; each score is divided by its mean, since one is
an amplitude and the other an energy; four iterations from the channels' standard deviations; the mean over neighbours
counts those that exist. Both branches of a picture run the same tokens: a scale's input is the same for both. Keys are
cached of the tokens that ran. Scales count from the end of the schedule, so every size and aspect ratio works.

A token that copies its neighbour's output gets the same probabilities but other noise, so a smooth place becomes grainy
where codes are drawn at a temperature. That is the method's and is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from stagevar.accelerators.base import Accelerator, Claim, Facts, last_executed
from stagevar.engine.grids.grid import Grid, Schedule
from stagevar.engine.grids.rows import gather, gather_rope, token_map, token_rows
from stagevar.engine.plan.memory import MapKind
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import highest, nearest
from stagevar.engine.plan.tokens import Reduced, Scope, TokenContext
from stagevar.errors import OptionError

STEPS = 4
"""Power iterations that find the direction in which tokens differ most."""


@dataclass(frozen=True, slots=True)
class StructureTexture:
    """Process the rows of highest structure and texture; the others copy the output of the nearest of them.

    Attributes:
        prune: share of the rows that is not processed, in [0, 1).
        weight: of structure beside texture.
        scope, dense, needs, source, final, aligned: see ``stagevar.engine.plan.tokens.Tokens``.
    """

    prune: float
    weight: float = 1.0
    scope: Scope = "network"
    dense: tuple[float, float] = (0.0, 0.0)
    needs: tuple[MapKind, ...] = ()
    source: int | None = None
    final: bool = False
    aligned: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.prune < 1:
            raise OptionError(f"prune must lie in [0, 1), not {self.prune}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise OptionError(f"weight must be a finite number from 0, not {self.weight}")

    def reduce(self, x_RMC: Tensor, context: TokenContext) -> Reduced:
        M, n = x_RMC.shape[1], len(context.latent)
        scores = self.weight * _relative(structure(x_RMC[:n])) + _relative(texture(x_RMC[:n], context.grid))
        index = highest(scores, M - math.floor(M * self.prune)).repeat(len(x_RMC) // n, 1)
        return Reduced(gather(x_RMC, index), gather_rope(context.rope, index), index)

    def restore(self, x_RMC: Tensor, y_RrC: Tensor, reduced: Reduced, context: TokenContext) -> Tensor:
        assert reduced.index is not None
        if reduced.index.shape[1] == x_RMC.shape[1]:
            return y_RrC
        images = reduced.index[: len(context.latent)]
        return gather(y_RrC, nearest(images, context.grid).repeat(len(y_RrC) // len(images), 1))


def structure(x_nMC: Tensor) -> Tensor:
    """Amplitude of each row (n, M) along the direction in which the rows of an image differ most."""
    x = x_nMC.float()
    x = x - x.mean(1, keepdim=True)
    direction = x.square().mean(1, keepdim=True).sqrt()
    for _ in range(STEPS):
        direction = F.normalize((x @ direction.mT).mT @ x, dim=-1)
    return (x @ direction.mT).squeeze(-1).abs()


def texture(x_nMC: Tensor, grid: Grid) -> Tensor:
    """Energy of each row's difference from the mean over its 3 x 3 neighbourhood (n, M)."""
    x = token_map(x_nMC.float(), grid)
    mean = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return token_rows((x - mean).square().sum(1, keepdim=True)).squeeze(-1)


def _relative(scores_nM: Tensor) -> Tensor:
    """Scores over their mean, so that those of another unit can be added."""
    return scores_nM / scores_nM.mean(1, keepdim=True).clamp(min=1e-20)


@dataclass(frozen=True)
class StepVAR(Accelerator):
    """Late scales process the tokens of structure and texture; the others copy the nearest one's output.

    Combines with what decides other axes: ``drop_last``, ``guidance_off``, ``sparvar``, ``scalekv``.

    Attributes:
        prune: share of the tokens that is not processed at the last scales that run, first to last.
        weight: of structure beside texture.
    """

    name: ClassVar[str] = "stepvar"
    owns: ClassVar[frozenset[str]] = frozenset({"tokens"})
    citation: ClassVar[str] = "StepVAR, arXiv 2603.01757"
    source: ClassVar[str] = "notes on the paper"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("HART, 1024x1024", 1.4, "GenEval .51 to .51, DPG 74.87 to 74.58"),
        Claim("InfinityStar, video", 1.4, "VBench 83.88 to 83.35"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"prune": (0.0,)}
    prune: tuple[float, ...] = (0.5, 0.75)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not all(isinstance(share, int | float) for share in self.prune):
            raise OptionError(f"stepvar: prune must be a tuple of shares, not {self.prune}")
        for share in self.prune:
            StructureTexture(share, self.weight)

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        for k, share in zip(last_executed(plan, len(self.prune), self), self.prune, strict=True):
            if share:
                plan = plan.replace([k], tokens=StructureTexture(share, self.weight))
        return plan
