"""SparVAR: late scales attend to few keys, near ones or those that an earlier scale chose.

Idea: in late scales attention is local in the picture, at every earlier scale around the same relative position, and
all queries look at the tokens of the first scales. So in most blocks a query sees a window of keys at each of the last
scales, wider the later the scale, all keys of the first scales, and nothing of those between ("CSLA"). In the first
blocks the keys that matter are the same from scale to scale: the first late scale attends to everything and notes, per
head and group of 192 queries, the fifth of the keys that has most attention. Later scales attend to these and to near
keys of their own, and add what that missed at the first late scale, resampled ("CS4A"). Only self-attention changes:
all rows run, and all keys are cached.

No scale is left out. By operations the gain is bounded by the share of attention. On a CPU the blocks are a loop over
gathered keys.

What the released code does for Infinity, and the defaults here: at the last three of 13 scales (a side of 40 of 64 and
above), blocks 11 and later of the network attend within windows of 1, 1, 3, 5 and 7 tokens at the last five scales and
to the first five scales, in blocks of 128 x 128 rows: 21%, 18% and 16% of all pairs. Blocks before these choose at
40x40: 784 of 4,121 keys. With windows of 7 and 9 tokens that makes 1,344 of 6,425 keys at 48x48 and 2,128 of 10,521 at
64x64.

Deviations: windows count from the end of the schedule, so every aspect ratio works. The run of a scale's own keys holds
every window of the group whole, also where groups are no whole lines of the grid. Of keys with equal attention the
older one is chosen. A model whose scales do not see earlier ones is local alone. Over rows or keys that are known at
run time only (reduced or dropped ones) patterns are masks, which save no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from stagevar.accelerators.base import Accelerator, Claim, Facts
from stagevar.engine.grids.grid import Schedule, scales
from stagevar.engine.plan.local import Local
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.similar import SelfSimilar
from stagevar.errors import OptionError


@dataclass(frozen=True)
class SparVAR(Accelerator):
    """Late scales attend to near keys and the first scales, or to the keys that the first late scale chose.

    Combines with what decides other axes: ``drop_last``, ``guidance_off``, ``fastvar``, ``scalekv``.

    Attributes:
        share: the pattern holds from this side of the grid on, relative to the final one.
        bound: blocks from this share of the depth on attend to near keys and the first scales.
        windows: width of the window at each of the last scales, -1 for none.
        sinks: first scales that all queries see.
        block: rows of a block of queries or keys.
        cs4a: whether the blocks before ``bound`` attend to chosen keys; else to all.
        top, group, multiple, similar: ``top``, ``group``, ``multiple`` and ``windows`` of ``SelfSimilar``.
    """

    name: ClassVar[str] = "sparvar"
    owns: ClassVar[frozenset[str]] = frozenset({"attend"})
    citation: ClassVar[str] = "SparVAR, CVPR 2026, arXiv 2602.04361"
    source: ClassVar[str] = "Weepingchestnut/Lvar"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("Infinity-8B, 1024x1024", 1.57, "PSNR 29.5, SSIM .920 to the plain run; GenEval .798 to .796"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"sinks": 99, "cs4a": False}
    share: float = 0.6
    bound: float = 11 / 32
    windows: tuple[int, ...] = (1, 1, 3, 5, 7)
    sinks: int = 5
    block: int = 128
    cs4a: bool = True
    top: float = 0.2
    group: int = 192
    multiple: int = 112
    similar: tuple[int, ...] = (7, 9)

    def __post_init__(self) -> None:
        if not self.share >= 0:
            raise OptionError(f"sparvar: share must be 0 or more, not {self.share}")
        if not 0 <= self.bound <= 1:
            raise OptionError(f"sparvar: bound must be a share of the depth in [0, 1], not {self.bound}")
        for name in ("windows", "similar"):
            if not all(isinstance(width, int) for width in getattr(self, name)):
                raise OptionError(f"sparvar: {name} must be whole numbers, not {getattr(self, name)}")
        self._local(0.0), self._similar(None, ())

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        late = [at.k for at in scales(schedule) if at.share >= self.share]
        local = (self._local(self.bound),) if self.bound < 1 else ()
        plan = plan.replace(late, attend=local)
        ran = tuple(k for k in late if k in plan.executed)
        if self.cs4a and self.bound and facts.causal and len(ran) > 1:
            for n, k in enumerate(ran):
                similar = self._similar(ran[0], ran[1:n]) if n else self._similar(None, ())
                plan = plan.replace([k], attend=(similar, *local))
        return plan

    def _local(self, bound: float) -> Local:
        return Local(self.windows, self.sinks, self.block, (bound, 1.0))

    def _similar(self, source: int | None, through: tuple[int, ...]) -> SelfSimilar:
        layers = 0.0, self.bound or 1.0
        return SelfSimilar(self.top, self.group, self.multiple, self.similar, source, through, layers)
