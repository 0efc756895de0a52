"""FastVAR: late scales process the rows that stand out.

Idea: late scales add detail, which few tokens carry. Around each part of a block (self-attention, attention to the
text, perceptron), the rows farthest from the mean row are processed. The others take the output that the same part had
at the last structure scale, area-resampled to the grid. The last scales are not run at all.

Most of the claimed gain comes from the scales that are left out: on Infinity-2B these alone give 3.1x of 4.2x by
operations (see ``drop_last`` in the controls).

What the released code does for Infinity, and the defaults here: of 13 scales the last two are left out; the two before
them prune 40% and 50% of the rows in blocks 3 to 27 of 32; the others take the output of the scale before those two, at
24x24. For HART it is ``skip=0, prune=(0.5, 0.75), first=0.0, end=1.0``. There the parts of a block are two.

Deviations: scales count from the end of the schedule and blocks are shares of the depth, where the code asks for widths
of 32 and 40 and fails or does nothing at other aspect ratios; maps belong to one call, so that none of another picture
is ever read; rows run in raster order; of equal distances the first rows win; batches work, and every picture is the
one that it is alone. The last scale that runs keeps no keys, since nothing reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from stagevar.accelerators.base import Accelerator, Claim, Facts, last_executed
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.grids.rows import Role
from stagevar.engine.plan.parts import ROLES, PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError


@dataclass(frozen=True)
class FastVAR(Accelerator):
    """Late scales process the rows that stand out, part by part; the others take an earlier scale's outputs.

    Combines with what decides branches, attention or the cache: ``guidance_off``, ``sparvar``, ``scalekv``.

    Attributes:
        skip: scales at the end that are not run.
        prune: share of the rows that is not processed at the last scales that run, first to last.
        first, end: blocks that prune, as shares of the depth: the first and the one behind the last.
        lag: the others take the outputs of the scale that runs so many scales before the first that prunes.
        roles: parts of a block that prune.
    """

    name: ClassVar[str] = "fastvar"
    owns: ClassVar[frozenset[str]] = frozenset({"run", "parts"})
    citation: ClassVar[str] = "Guo et al., FastVAR, ICCV 2025, arXiv 2503.23367"
    source: ClassVar[str] = "csguoh/FastVAR"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("Infinity-2B, 1024x1024", 2.7, "GenEval .73 to .72"),
        Claim("HART, 1024x1024", 1.5, "GenEval .51 to .51"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"skip": 0, "prune": (0.0,)}
    skip: int = 2
    prune: tuple[float, ...] = (0.4, 0.5)
    first: float = 3 / 32
    end: float = 28 / 32
    lag: int = 1
    roles: tuple[Role, ...] = ROLES

    def __post_init__(self) -> None:
        if not all(isinstance(share, int | float) for share in self.prune):
            raise OptionError(f"fastvar: prune must be a tuple of shares, not {self.prune}")
        for share in self.prune:
            PartRows(share, self.roles, (self.first, self.end))

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        plan = plan.replace(last_executed(plan, self.skip, self), run="skip")
        scales = last_executed(plan, len(self.prune), self)
        if not scales:
            return plan
        before = [k for k in plan.executed if k < scales[0]]
        if not 1 <= self.lag <= len(before):
            raise OptionError(f"{self}: {len(before)} scales run before the first that prunes, so lag is 1 to that")
        for k, share in zip(scales, self.prune, strict=True):
            rule = PartRows(share, self.roles, (self.first, self.end), source=before[-self.lag], mode="area")
            plan = plan.replace([k], parts=(rule,))
        return plan
