"""One block of one pass: its parts in order, each on all rows or on those that the plan chooses for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stagevar.engine.contract.block import Block, BlockContext, Part
from stagevar.engine.grids.rows import Role, gather, gather_rope, scatter
from stagevar.engine.plan.parts import PartRows, Rows, Sites, rule_at

if TYPE_CHECKING:
    from stagevar.engine.loop.forward import Pass


def through(work: Pass, block: Block, x: Tensor, rows: Rows, context: BlockContext) -> tuple[Tensor, int]:
    """The stream behind a block, and how many rows its parts have processed in sum."""
    layer, depth, processed = context.layer, work.call.model.depth, 0
    for role, part in zip(block.roles, block.parts, strict=True):
        rule = rule_at(work.plan.parts, layer, role, depth)
        tokens = x.shape[1] - rows.ahead
        if rule is None or rule.count(tokens) == tokens:
            increment, count = part(x, context), x.shape[1]
        else:
            increment, count = _partly(work, rule, role, part, x, rows, context)
        if any(isinstance(read.sites, Sites) and read.sites.has(layer, role, depth) for read in work.written):
            work.cohort.memory.put("part", (layer, role), work.k, increment[:, rows.ahead :], work.at.grid)
        work.show(f"part.{layer}.{role}", increment)
        x, processed = x + increment, processed + len(x) * count
    return x, processed


def _partly(
    work: Pass, rule: PartRows, role: Role, part: Part, x: Tensor, rows: Rows, context: BlockContext
) -> tuple[Tensor, int]:
    """A part's increment where it processes some of the tokens only, and how many rows it has processed."""
    cohort, tokens, site = work.cohort, x[:, rows.ahead :], (context.layer, role)
    source = work.before if rule.source is None else rule.source
    others = rule.others(tokens, rows, cohort.memory, site, source)
    index = rule.choose(tokens, rows, cohort.latent, cohort.change) + rows.ahead
    if rows.ahead:
        first = torch.arange(rows.ahead, device=x.device).expand(len(x), -1)
        index, others = torch.cat([first, index], 1), torch.cat([torch.zeros_like(x[:, : rows.ahead]), others], 1)
    if not index.shape[1]:
        return others, 0
    rope, aligned = gather_rope(context.rope, index), context.aligned and rule.aligned
    increment = part(gather(x, index), replace(context, rope=rope, aligned=aligned))
    return scatter(others.to(increment.dtype), index, increment), index.shape[1]
