"""How much the codes of each token count: a factor of what they add to the latent.

``Gain`` is plain data with one pure method; an accelerator brings its own. At 0 a token draws codes that add nothing,
as where rows are restored of which only some are to draw.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from stagevar.engine.plan.memory import MapKind
from stagevar.engine.plan.tokens import TokenContext
from stagevar.engine.plan.watch import Watch


class Gain(Protocol):
    """Factors (n, M) of what the codes of each token add.

    Attributes:
        needs: what is read of an earlier scale: its ``logits``, and which of its watches.
        source: index of that scale; None means the one that ran before.
    """

    @property
    def needs(self) -> tuple[MapKind | Watch, ...]: ...
    @property
    def source(self) -> int | None: ...
    def __call__(self, context: TokenContext, /) -> Tensor: ...
