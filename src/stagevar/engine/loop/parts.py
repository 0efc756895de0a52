"""One block of one pass: its parts in order, each on all rows or on those that the plan chooses for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stagevar.engine.contract.block import Block, BlockContext, Part
from stagevar.engine.grids.rows import Role, gather, gather_rope, scatter
from stagevar.engine.loop.scale_pass import Pass
from stagevar.engine.plan.look import Places
from stagevar.engine.plan.parts import PartContext, PartRows, Rows, Sites, rule_at


def through(work: Pass, block: Block, x: Tensor, rows: Rows, context: BlockContext) -> tuple[Tensor, int]:
    """The stream behind a block, and how many rows its parts have processed in sum."""
    layer, depth, processed = context.layer, work.call.model.depth, 0
    for role, part in zip(block.roles, block.parts, strict=True):
        rule = rule_at(work.plan.parts, layer, role, depth)
        tokens = x.shape[1] - rows.ahead
        if rule is None or rule.count(tokens) == tokens:
            increment, chosen, count = part(x, context), None, x.shape[1]
        else:
            increment, chosen = _partly(work, rule, role, part, x, rows, context)
            count = chosen.shape[1]
            work.show(f"chosen.{layer}.{role}", chosen)
        if role == "attention" and count and not isinstance(work.plan.cache, str):
            queries = work.row_places(rows, chosen, x.device)
            _evict(work, block, x if chosen is None else gather(x, chosen), context, queries)
        if any(isinstance(read.sites, Sites) and read.sites.has(layer, role, depth) for read in work.written):
            work.cohort.memory.put("part", (layer, role), work.k, increment[:, rows.ahead :], work.at.grid)
        work.show(f"part.{layer}.{role}", increment)
        x, processed = x + increment, processed + len(x) * count
    return x, processed


def _partly(
    work: Pass, rule: PartRows, role: Role, part: Part, x: Tensor, rows: Rows, context: BlockContext
) -> tuple[Tensor, Tensor]:
    """A part's increment where it processes some of the tokens only, and which rows it has processed."""
    cohort, tokens = work.cohort, x[:, rows.ahead :]
    seen = PartContext((context.layer, role), cohort.latent, cohort.change, cohort.memory, work.before)
    others = rule.others(tokens, rows, seen)
    index = rule.choose(tokens, rows, seen) + rows.ahead
    if rows.ahead:
        first = torch.arange(rows.ahead, device=x.device).expand(len(x), -1)
        index, others = torch.cat([first, index], 1), torch.cat([torch.zeros_like(x[:, : rows.ahead]), others], 1)
    if not index.shape[1]:
        return others, index
    rope, aligned = gather_rope(context.rope, index), context.aligned and rule.aligned
    attend: Any = context.attend
    chosen = replace(context, rope=rope, attend=replace(attend, chosen=index), aligned=aligned)
    increment = part(gather(x, index), chosen)
    return scatter(others.to(increment.dtype), index, increment), index


def _evict(work: Pass, block: Block, x_RmC: Tensor, context: BlockContext, queries: Places) -> None:
    """Drop what the plan drops of a layer's cache behind the attention of rows x."""
    rule, cache, layer = work.plan.cache, work.cohort.cache, context.layer
    if isinstance(rule, str) or work.last or not work.call.model.causal:
        return
    if rule.capacity(work.at, work.sequence, layer) >= cache.length(layer):
        return
    look = work.look(layer, queries, work.cohort.places.of(layer))
    voters = torch.tensor(rule.voters(look), dtype=torch.long, device=x_RmC.device)
    slots = rule.keep(cache.keys(layer), lambda: block.queries(x_RmC[:, voters], context), look)
    cache.evict(layer, slots)
    work.show(f"kept.{layer}", work.cohort.places.evict(layer, slots))
