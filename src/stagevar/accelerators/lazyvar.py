"""LazyVAR (Mao et al., CVPR 2026): the last scales run together, on few positions each.

Idea: before the last scales most of the latent has stopped changing, and how far the latent turned at the last whole
scale says where it has not: the "update index" of a position is 1 - cosine of the latent there before and after that
scale. The positions are dealt out among the last scales by it, the most active ones to the largest grid, the next ones
to the grid below, and so on. What a scale leaves out adds no codes, and nothing is restored. With so few rows the last
scales hardly depend on one another, so they run in one pass: the input of each is the latent before all of them, and
each attends to the smaller ones among them and to all earlier scales. With few rows a pass on a GPU takes the time of
its launches, so one pass in place of four saves most of it.

Claimed on one RTX 4090, one picture of 1024 x 1024, as a third party's note of the paper tells it. Infinity-2B: 2.94x
in time, 101.6 to 34.3 TFLOP, 16.1 to 11.2 GB, GenEval .685 to .686, HPSv2.1 30.44 to 29.83, FID to the model's own
pictures 1.46. The same rows one scale after another: 2.03x. No rows at all in the four scales, which is
``drop_last(4)``: 3.37x, GenEval .658. HART: 1.67x, GenEval .476 to .468. The TFLOP are counted
otherwise than here: this plan takes the network alone from 115.2 to 16.4 (``stagevar explain``).

Source: no code was found, and the paper itself was not at hand; this follows the note. Its settings are the defaults:
the last four of Infinity's 13 scales (32 x 32 to 64 x 64) in one pass with 20, 10, 5 and 1% of their rows. For HART it
names the last two with 30 and 20%: ``lazyvar(shares=(0.3, 0.2))``.

Choices of our own, where the note is silent or unclear:

* Scales count from the last one that runs, so every size and aspect ratio works.
* The ranking is made on the grid of each scale, after area resizing of the update index, so that a scale has the number
  of rows that its share says. A scale begins in the ranking behind the shares of all larger ones. The note counts this
  in positions, by a formula that mixes the indices of two scales; shares are what it comes to where grids nest.
* The cosine is computed as the squared distance of unit vectors, which does not cancel in float32.
* Equal positions tie, and of them the first in raster order win.
* Guidance is left as it is; ``guidance_off(n)+lazyvar`` ends it. Scales of one pass run the same branches, so where
  guidance ends among them, those behind run both at guidance 1 (the null branch: 0), which draws the same.

Limits: shares and scales are set by hand and are the same for every prompt. Detail that first appears after the last
whole scale, where the latent was calm, is missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from stagevar.accelerators.base import Accelerator, Claim, Facts, last_executed
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import gather, gather_rope
from stagevar.engine.plan.memory import MapKind
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import highest, kept
from stagevar.engine.plan.tokens import Reduced, Scope, TokenContext
from stagevar.errors import OptionError


@dataclass(frozen=True)
class LazyVAR(Accelerator):
    """The last scales share one pass, each with the few positions that the latent's last change deals to it.

    Combines with what decides other axes: ``drop_last``, ``guidance_off``, ``sparvar``, ``scalekv``.

    Attributes:
        shares: of the rows, at the last scales that run, first to last.
    """

    name: ClassVar[str] = "lazyvar"
    owns: ClassVar[frozenset[str]] = frozenset({"group", "tokens"})
    citation: ClassVar[str] = "Mao et al., LazyVAR, CVPR 2026"
    source: ClassVar[str] = "notes on the paper"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("Infinity-2B, 1024x1024", 2.94, "GenEval .685 to .686, HPSv2.1 30.44 to 29.83, FID to plain 1.46"),
        Claim("HART, 1024x1024", 1.67, "GenEval .476 to .468, FID to plain 3.77"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"shares": (1.0,)}
    shares: tuple[float, ...] = (0.2, 0.1, 0.05, 0.01)

    def __post_init__(self) -> None:
        if not all(isinstance(share, int | float) and 0 < share <= 1 for share in self.shares):
            raise OptionError(f"lazyvar: shares must be numbers in (0, 1], not {self.shares}")

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        scales = last_executed(plan, len(self.shares), self)
        for place, (k, share) in enumerate(zip(scales, self.shares, strict=True)):
            rows = Dealt(share, min(sum(self.shares[place + 1 :]), 1 - share)) if share < 1 else None
            plan = plan.replace([k], tokens=rows)
        single = [k for k in range(len(plan)) if plan[k].branch != "both"]
        if scales and single and scales[0] < single[0]:
            plan = plan.replace(single, branch="both", guidance=1.0 if plan[single[0]].branch == "cond" else 0.0)
        return plan.replace(scales[1:], group=True)


@dataclass(frozen=True, slots=True)
class Dealt:
    """Process one section of the positions in the order of their update index; the others add no codes.

    Attributes:
        keep: share of the positions.
        behind: share of the positions of higher update index, which other scales process.
        scope, dense, needs, source, final, aligned: see ``stagevar.engine.plan.tokens.Tokens``.
    """

    keep: float
    behind: float
    scope: Scope = "network"
    dense: tuple[float, float] = (0.0, 0.0)
    needs: tuple[MapKind, ...] = ()
    source: int | None = None
    final: bool = True
    aligned: bool = True

    def reduce(self, x_RMC: Tensor, context: TokenContext) -> Reduced:
        count = x_RMC.shape[1]
        rows = kept(self.keep, count)
        index = self.positions(context, rows, min(round(self.behind * count), count - rows))
        index = index.repeat(len(x_RMC) // len(index), 1)
        return Reduced(gather(x_RMC, index), gather_rope(context.rope, index), index)

    def positions(self, context: TokenContext, rows: int, others: int) -> Tensor:
        """(n, rows) in raster order, behind the ``others`` of highest update index."""
        scores = resize(update_index(context.latent, context.change), context.grid, "area").flatten(1)
        if others:
            scores = scores.scatter(1, highest(scores, others), -1.0)
        return highest(scores, rows)

    def restore(self, x_RMC: Tensor, y_RrC: Tensor, reduced: Reduced, context: TokenContext) -> Tensor:
        return y_RrC


def update_index(latent_nDHW: Tensor, change_nDHW: Tensor) -> Tensor:
    """1 - cosine of the latent before and after its last change, (n, 1, H, W)."""
    before, after = (F.normalize(x, dim=1) for x in (latent_nDHW - change_nDHW, latent_nDHW))
    return (after - before).square().sum(1, keepdim=True) / 2
