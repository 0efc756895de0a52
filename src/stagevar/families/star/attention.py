"""STAR's cross-attention, whose result several rows of a batch share, and the condition that assigns it to rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.contract.block import BlockContext, Condition
from stagevar.engine.grids.sent import sent
from stagevar.families.blocks import cosine_query, layer_norm, merge_heads, split_heads
from stagevar.families.linear import Linear


@dataclass(frozen=True, slots=True)
class Sharing:
    """Assigns to each row the row whose cross-attention it uses.

    Attributes:
        sources: the row whose cross-attention each row uses.
        readers: (r,) the rows that attend to their text.
        places: (R,) index into ``readers`` of the row that each row uses.
    """

    sources: tuple[int, ...]
    readers: Tensor
    places: Tensor

    @classmethod
    def of(cls, sources: Sequence[int], device: torch.device) -> Self:
        """Row i uses the cross-attention of row ``sources[i]``."""
        readers = sorted(set(sources))
        places = [readers.index(source) for source in sources]
        return cls(tuple(sources), *(sent(torch.tensor(each), device) for each in (readers, places)))

    def take(self, rows: Sequence[int]) -> Self:
        """The sharing among the given rows. A row whose reader is not among them attends to its own text."""
        places = {row: place for place, row in enumerate(rows)}
        return self.of([places.get(self.sources[row], i) for i, row in enumerate(rows)], self.readers.device)


@dataclass(frozen=True)
class StarCondition(Condition):
    """A condition whose rows share cross-attention. ``pooled`` is the text encoder's summary vector."""

    sharing: Sharing = field(kw_only=True)

    def take(self, rows: Sequence[int]) -> Self:
        return replace(super().take(rows), sharing=self.sharing.take(rows))


class CosineCrossAttention(nn.Module):
    """Attention to the text with normalised queries and keys and a learned temperature per head. The keys have no bias.

    Rows share its result as the condition's ``sharing`` says. If the context is not ``aligned``, the rows stand for
    different positions of the grid and cannot share the result. Each row then attends to its reader's text itself.
    """

    shared = True
    """One branch computes this part for both branches."""

    def __init__(self, width: int, heads: int, text: int, eps: float) -> None:
        super().__init__()
        self.heads, self.eps = heads, eps
        self.q = Linear(width, width, bias=False)
        self.kv = Linear(text, 2 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.log_temperature = nn.Parameter(torch.zeros(heads))
        self.proj = Linear(width, width)

    def keys_values(self, text_RTC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (R, H, T, D) of the text encoder's states (R, T, C)."""
        k, v = self.kv(text_RTC.to(self.kv.weight.dtype)).chunk(2, -1)
        k, v = split_heads(k, self.heads), split_heads(v + self.v_bias, self.heads)
        return F.normalize(k.float(), dim=-1).to(v.dtype), v

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        condition = context.condition
        assert isinstance(condition, StarCondition)
        readers, places, mask = condition.sharing.readers, condition.sharing.places, condition.text_mask
        if not context.aligned:
            readers, places = readers[places], torch.arange(len(x), device=x.device)
        k, v = (each[readers] for each in condition.text_kv[context.layer])
        h = layer_norm(x[readers] if context.aligned else x, self.eps).to(v.dtype)
        q = split_heads(self.q(h, self.q_bias), self.heads)
        mask = None if mask is None else mask[readers, None, None]
        out = F.scaled_dot_product_attention(cosine_query(q, self.log_temperature).to(v.dtype), k, v, mask, scale=1.0)
        return self.proj(merge_heads(out))[places]
