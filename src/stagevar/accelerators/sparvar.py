"""SparVAR: late scales attend to neighbours and first scales.

Idea: in late scales attention is local in the picture, at every earlier scale around the same relative position, and
all queries look at the tokens of the first scales. So a query sees a window of keys at each of the last scales, wider
the later the scale, all keys of the first scales, and nothing of those between ("CSLA"). Only self-attention changes:
all rows run, and all keys are cached.

No scale is left out. By operations the gain is bounded by the share of attention. On a CPU the blocks are a loop over
gathered keys.

What the released code does for Infinity, and the defaults here: at the last three of 13 scales (a side of 40 of 64 and
above), blocks 11 and later of the network attend within windows of 1, 1, 3, 5 and 7 tokens at the last five scales and
to the first five scales, in blocks of 128 x 128 rows: 21%, 18% and 16% of all pairs.

Deviations: windows count from the end of the schedule, so every aspect ratio works. The released code has a second
pattern for the first blocks ("CS4A": keys chosen by their attention at a decision scale, with a correction that is
upsampled). It is not reproduced; these blocks stay dense here. Over rows or keys that are known at run time only
(reduced or dropped ones) the pattern is a mask, which saves no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from stagevar.accelerators.base import Accelerator, Claim, Facts
from stagevar.engine.grids.grid import Schedule, scales
from stagevar.engine.plan.local import Local
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError


@dataclass(frozen=True)
class SparVAR(Accelerator):
    """Late scales attend to keys near their own position and to the first scales.

    Combines with what decides other axes: ``drop_last``, ``guidance_off``, ``fastvar``, ``scalekv``.

    Attributes:
        share: the pattern holds from this side of the grid on, relative to the final one.
        first: blocks of the network in which it holds, from this share of the depth on.
        windows: width of the window at each of the last scales, -1 for none.
        sinks: first scales that all queries see.
        block: rows of a block of queries or keys.
    """

    name: ClassVar[str] = "sparvar"
    owns: ClassVar[frozenset[str]] = frozenset({"attend"})
    citation: ClassVar[str] = "SparVAR, CVPR 2026, arXiv 2602.04361"
    source: ClassVar[str] = "Weepingchestnut/Lvar"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("Infinity-8B, 1024x1024", 1.57, "PSNR 29.5, SSIM .920 to the plain run; GenEval .798 to .796"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"sinks": 99}
    share: float = 0.6
    first: float = 11 / 32
    windows: tuple[int, ...] = (1, 1, 3, 5, 7)
    sinks: int = 5
    block: int = 128

    def __post_init__(self) -> None:
        if not self.share >= 0:
            raise OptionError(f"sparvar: share must be 0 or more, not {self.share}")
        if not all(isinstance(width, int) for width in self.windows):
            raise OptionError(f"sparvar: windows must be whole numbers, not {self.windows}")
        self._pattern()

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        late = [at.k for at in scales(schedule) if at.share >= self.share]
        return plan.replace(late, attend=(self._pattern(),))

    def _pattern(self) -> Local:
        return Local(self.windows, self.sinks, self.block, (self.first, 1.0))
