"""SSG, Scaled Spatial Guidance: each scale adds what the one before lacks.

Idea: a scale should add detail that the scales before cannot explain. So its logits are moved away from a prior, the
logits of the scale before on the finer grid: ``logits + beta * (logits - prior)``. The prior is the interpolated map
whose low spatial frequencies are replaced by those of the coarse map itself ("discrete spatial enhancement"): both are
taken to the frequencies of a cosine transform, where interpolation alone would damp what the coarse map knows.

It saves nothing and costs no pass: it is a plug-in for quality, to be summed with what saves time.

Gains are claimed for HART and Infinity too.

The source is the paper's abstract and a description; of the repository Youngwoo-git/SSG only the text was found. They
leave open the strength per scale, which must be tuned, and whether the prior is corrected itself. Our choices: one
strength for all scales but the first, or one of one's own for each of the last scales; the prior is what the network
said, guided and divided by its temperature, before its own correction, so that corrections do not add up.

Logits of two scales can be compared only where a code means the same at every scale. A model with codes of its own at
each scale, such as the shipped one, refuses it before drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stagevar.accelerators.base import Accelerator, Claim, Facts, last_executed
from stagevar.engine.grids.grid import Grid, Schedule
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import gather, token_map, token_rows
from stagevar.engine.plan.correct import Earlier
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError


@dataclass(frozen=True, slots=True)
class FromPrior:
    """Logits moved away from the enlarged logits of an earlier scale.

    Attributes:
        beta: strength, in [-1, 10].
        source: see ``stagevar.engine.plan.correct.Correction``.
    """

    beta: float
    source: int | None = None

    def __post_init__(self) -> None:
        if not -1 <= self.beta <= 10:
            raise OptionError(f"beta must lie in [-1, 10], not {self.beta}")

    def __call__(self, logits_nrV: Tensor, earlier: Earlier, /) -> Tensor:
        prior = enlarged(earlier.logits, earlier.source.grid, earlier.at.grid)
        if earlier.index is not None:
            prior = gather(prior, earlier.index)
        return logits_nrV + self.beta * (logits_nrV - prior)


def enlarged(rows_nMV: Tensor, grid: Grid, to: Grid) -> Tensor:
    """Rows of ``grid`` on a finer grid (n, h * w, V): interpolated, with the low frequencies of the rows themselves."""
    if grid == to:
        return rows_nMV
    coarse = token_map(rows_nMV, grid)
    smooth = resize(coarse, to, "bilinear")
    down, across = (low_band(few, many, coarse) for few, many in zip(grid, to, strict=True))
    level = math.sqrt(to[0] * to[1] / (grid[0] * grid[1]))
    lacking = level * coarse - down.mT @ smooth @ across
    return token_rows(smooth + down @ lacking @ across.mT)


def low_band(few: int, many: int, like: Tensor) -> Tensor:
    """The matrix (many, few) that gives ``many`` values the lowest frequencies of ``few`` values, length unchanged."""
    count = min(few, many)
    return cosines(many, like)[:count].mT @ cosines(few, like)[:count]


def cosines(count: int, like: Tensor) -> Tensor:
    """The orthonormal cosine transform of ``count`` values (DCT-II): (frequencies, values)."""
    place = torch.arange(count, device=like.device, dtype=like.dtype)
    waves = torch.cos(math.pi / count * (place + 0.5) * place[:, None]) * math.sqrt(2 / count)
    waves[0] /= math.sqrt(2)
    return waves


@dataclass(frozen=True)
class SSG(Accelerator):
    """Logits are moved away from what the scale before has said already; for quality, not for speed.

    Combines with all that leaves the scale before whole: ``drop_last``, ``guidance_off``, ``fastvar``, ``sparvar``,
    ``scalekv``, ``stepvar``.

    Attributes:
        beta: strength at all scales but the first that runs; 0 is the plain run.
        betas: strengths at the last scales that run, first to last, in its place.
    """

    name: ClassVar[str] = "ssg"
    owns: ClassVar[frozenset[str]] = frozenset({"correct"})
    citation: ClassVar[str] = "Shin et al., SSG: Scaled Spatial Guidance, ICLR 2026, arXiv 2602.05534"
    source: ClassVar[str] = "notes on the paper"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("VAR-d16, 256x256", None, "FID 3.42 to 3.27"),
        Claim("VAR-d30, 256x256", None, "FID 2.02 to 1.68"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"beta": 0.0}
    beta: float = 0.1
    betas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(beta, int | float) for beta in self.betas):
            raise OptionError(f"ssg: betas must be a tuple of strengths, not {self.betas}")
        for beta in (self.beta, *self.betas):
            FromPrior(beta)

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        strengths = dict.fromkeys(plan.executed[1:], self.beta)
        strengths |= zip(last_executed(plan, len(self.betas), self), self.betas, strict=True)
        corrected = {k: beta for k, beta in strengths.items() if beta}
        if corrected and not facts.shared_codes:
            raise OptionError("ssg compares logits of two scales, but this model has codes of its own at each scale")
        for k, beta in corrected.items():
            plan = plan.replace([k], correct=FromPrior(beta))
        return plan
