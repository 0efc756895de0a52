"""Correct the logits of a scale by those of an earlier one, where a code means the same at every scale.

``Correction`` is plain data with one pure method; an accelerator brings its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from stagevar.engine.grids.grid import Scale


@dataclass(frozen=True, slots=True)
class Earlier:
    """Logits of an earlier scale, and where they stand.

    Attributes:
        logits: (n, M, V) at all positions of the earlier scale, guided and divided by the temperature, as they were
            before a correction of their own. Bits of a code follow one another in V.
        source: that scale.
        at: the scale whose logits are corrected.
        index: (n, r) positions of the rows whose logits are corrected, None for all.
    """

    logits: Tensor
    source: Scale
    at: Scale
    index: Tensor | None


class Correction(Protocol):
    """What is made of a scale's logits (n, r, V) with those of an earlier scale.

    Attributes:
        source: index of the earlier scale; None means the one that ran before.
    """

    @property
    def source(self) -> int | None: ...
    def __call__(self, logits_nrV: Tensor, earlier: Earlier, /) -> Tensor: ...
