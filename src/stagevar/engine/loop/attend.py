"""Self-attention of one layer over cached keys and new ones, and what the cache keeps behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.contract.block import Block, BlockContext
from stagevar.engine.loop.parts import Share
from stagevar.engine.loop.stream import joined
from stagevar.engine.plan.look import Places, pattern_at
from stagevar.engine.plan.look import joined as joined_places


@dataclass(frozen=True, slots=True)
class CachedAttention:
    """Self-attention of the rows of one or more scales, as a part of a block asks for it.

    The scales of a pass attend in order: each to the cache with what the scales before it have left there, and to
    itself. In a model that is not causal each attends to itself alone.

    Attributes:
        shares: the rows at hand, scale by scale.
        block, layer: whose attention it is.
    """

    shares: Sequence[Share]
    block: Block
    layer: int

    def __call__(self, q_RHMD: Tensor, k_RHMD: Tensor, v_RHMD: Tensor, /, *, scale: float) -> Tensor:
        counts = [share.count for share in self.shares]
        q, k, v = (rows.split(counts, 2) for rows in (q_RHMD, k_RHMD, v_RHMD))
        return joined([self._attend(*own, scale) for own in zip(self.shares, q, k, v, strict=True)], 2)

    def _attend(self, share: Share, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """The rows of one scale."""
        work, layer = share.stream.work, self.layer
        causal, keep = work.call.model.causal, not work.last and work.plan.cache != "none"
        if causal:
            k, v = work.cohort.cache.extend(layer, k, v, keep=keep, release=work.last)
        work.show(f"attended.{layer}", k)
        work.watching.attention(layer, q, k, scale)
        if not work.placed:
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        queries = work.row_places(share.stream.rows, share.chosen, q.device)
        keys, places = queries, work.cohort.places
        if causal:
            keys = places.extend(layer, queries) if keep else joined_places(places.of(layer), queries)
        look = work.look(layer, queries, keys)
        pattern = pattern_at(work.plan.attend, layer, look.depth)
        if pattern is None:
            out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        else:
            out = pattern(q, k, v, scale=scale, look=look)
        if causal:
            self._evict(share, queries)
        return out

    def _evict(self, share: Share, queries: Places) -> None:
        """Drop what the plan drops of the cache, by the rows that have just attended."""
        work, layer = share.stream.work, self.layer
        rule, cache, places = work.plan.cache, work.cohort.cache, work.cohort.places
        if isinstance(rule, str) or work.last or rule.capacity(work.at, work.sequence, layer) >= cache.length(layer):
            return
        look = work.look(layer, queries, places.of(layer))
        voters = torch.tensor(rule.voters(look), dtype=torch.long, device=share.x.device)
        context = BlockContext(layer, work.cohort.condition, None, self, share.aligned)
        slots = rule.keep(cache.keys(layer), lambda: self.block.queries(share.x[:, voters], context), look)
        cache.evict(layer, slots)
        work.show(f"kept.{layer}", places.evict(layer, slots))
