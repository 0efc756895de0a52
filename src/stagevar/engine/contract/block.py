"""Blocks of a network: their parts, and what a part is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from stagevar.engine.grids.rows import Role
from stagevar.engine.grids.sent import sent


@dataclass(frozen=True)
class Condition:
    """All that depends on the prompt, and on a picture to begin with, computed once per image: R rows, the prompts'
    rows before the null rows.

    Attributes:
        start: (R, C) or (R, T, C) input of the first scale.
        pooled: (R, C) vector that the head (and a family's embedding) may use.
        modulation: per layer (R, 6, C) adaptive-norm vectors, or empty.
        text_kv: per layer the (R, H, T, D) keys and values of cross-attention, or empty.
        text_mask: (R, T) bool, True at real text, or None if all rows are full.
        detail: (R, 1, h, w) where the picture that the image begins with has contrast, or None.
    """

    start: Tensor
    pooled: Tensor
    modulation: tuple[Tensor, ...] = ()
    text_kv: tuple[tuple[Tensor, Tensor], ...] = ()
    text_mask: Tensor | None = None
    detail: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.start.shape[0]

    def take(self, rows: Sequence[int]) -> Self:
        """The given rows only."""
        index = sent(torch.tensor(rows), self.start.device)
        taken: dict[str, Any] = {f.name: _take(getattr(self, f.name), index) for f in fields(self)}
        return replace(self, **taken)


def _take(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, tuple):
        return tuple(_take(part, rows) for part in value)
    return value


class Attend(Protocol):
    """Self-attention of new rows over the cached ones and themselves: (R, H, M, D) each, and so the result."""

    def __call__(self, q_RHMD: Tensor, k_RHMD: Tensor, v_RHMD: Tensor, /, *, scale: float) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What a part of a block sees besides the hidden state.

    Attributes:
        layer: index of the block.
        condition: the rows' condition.
        rope: (M, P, 2) or (R, M, P, 2) cosine and sine of each processed row and channel pair (or channel, as the
            family's attention reads it), or None.
        attend: self-attention over cache and new rows.
        aligned: whether row i of all branches of an image stands for the same positions of the grid.
    """

    layer: int
    condition: Condition
    rope: Tensor | None
    attend: Attend
    aligned: bool = True


class Part(Protocol):
    """A residual sub-layer: ``(x (R, M, C), context) -> increment (R, M, C)``, its gain applied."""

    def __call__(self, x: Tensor, context: BlockContext) -> Tensor: ...


class Block(nn.Module):
    """A block is its parts in order; the loop adds each part's increment to the residual stream."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(self.children())

    @property
    def roles(self) -> tuple[Role, ...]:
        """What each part does: ``attention``, ``cross`` or ``feed_forward``, which is also its name."""
        return cast(tuple[Role, ...], tuple(name for name, _ in self.named_children()))

    def queries(self, x_RmC: Tensor, context: BlockContext) -> Tensor:
        """Queries (R, H, m, D) of rows: their projection by self-attention before bias, norm and rotation."""
        attention = self.get_submodule("attention")
        return cast(Tensor, cast(Any, attention).queries(x_RmC, context))

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        for part in self.parts:
            x = x + part(x, context)
        return x
