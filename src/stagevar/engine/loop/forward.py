"""One pass of one cohort through the network: reduce, attend, restore, guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.contract.block import Block, BlockContext
from stagevar.engine.grids.grid import Scale
from stagevar.engine.grids.rows import gather
from stagevar.engine.grids.sent import per_image
from stagevar.engine.loop.cache import KVCache
from stagevar.engine.loop.call import Scored
from stagevar.engine.loop.parts import through
from stagevar.engine.loop.scale_pass import Pass
from stagevar.engine.loop.segments import segments
from stagevar.engine.plan.correct import Earlier
from stagevar.engine.plan.look import Look, joined, pattern_at
from stagevar.engine.plan.memory import LAST, MapKind
from stagevar.engine.plan.parts import Rows
from stagevar.engine.plan.plan import ScalePlan
from stagevar.engine.plan.reads import Grouping, Read
from stagevar.engine.plan.signals import flipped
from stagevar.engine.plan.tokens import Reduced, TokenContext


@dataclass(frozen=True, slots=True)
class Output:
    """What a pass yields.

    Attributes:
        hidden: (R, r, C) states that the logits were made of.
        logits: (n, r, ...), guided and divided by the temperature.
        index: (n, r) positions of the rows, None meaning all.
        processed: rows that the parts of all blocks have processed, in sum over parts.
        flips: (n,) share of codes whose most likely value guidance changed, where both branches ran.
        gain: (n, M) how much the codes of all tokens count; None all alike.
    """

    hidden: Tensor
    logits: Tensor
    index: Tensor | None
    processed: int
    flips: Tensor | None
    gain: Tensor | None


def forward(work: Pass) -> Output:
    """Logits of one cohort at one scale, guided."""
    cohort, found = work.cohort, work.call.replay(work) or scored(work)
    n, both, x, logits, index = len(cohort.images), work.plan.branch == "both", found.hidden, found.logits, found.index
    if work.guided == work.k and not work.last and (work.call.revised or Read("guidance", work.k) in work.written):
        cohort.memory.put("guidance", LAST, work.k, x[:n] - x[n:], work.at.grid)
    earlier, gain = _earlier(work, index), _gain(work)
    cohort.memory.keep_only(_kept_maps(work))
    temperatures = [each.temperature or 1.0 for each in work.here]
    if set(temperatures) != {1.0}:
        logits = logits / per_image(temperatures * (len(logits) // n), logits)
    cond, flips = logits[:n], None
    if both and work.plan.guidance_layer is None:
        logits = _guide(logits, work.here)
        flips = flipped(logits, cond) if work.call.revised else None
    elif both:
        logits = cond
    if Read("logits", work.k) in work.written:
        cohort.memory.put("logits", LAST, work.k, logits.flatten(2).clone(), work.at.grid)
    if work.plan.correct is not None and earlier is not None:
        logits = work.plan.correct(logits.flatten(2), earlier).view_as(logits)
    work.watching.codes(logits, temperatures)
    for watch, seen in work.watching.maps.items():
        if Read("watched", work.k, watch) in work.written:
            cohort.memory.put("watched", watch, work.k, seen[..., None], work.at.grid)
    return Output(x, logits, None if index is None else index[:n], found.processed, flips, gain)


def scored(work: Pass) -> Scored:
    """Blocks and head of one cohort at one scale."""
    cohort = work.cohort
    if work.plan.run == "reuse":
        x, index, processed = cohort.memory.get("hidden", LAST, work.source("hidden"), work.at.grid), None, 0
    else:
        x, index, processed = _blocks(work)
    if any(each.carry for each in work.here) and work.guided is not None:
        x = x + _carried(work, work.guided, index)
    return Scored(x, work.call.model.logits(x, cohort.condition, work.at), index, processed)


def _kept_maps(work: Pass) -> set[tuple[MapKind, int]]:
    """Kind and scale of the maps that later scales read, or may read once their plans are revised."""
    kept = {(read.kind, read.scale) for read in work.read_later}
    if work.call.revised and work.guided is not None and not work.last:
        kept.add(("guidance", work.guided))
    return kept


def _gain(work: Pass) -> Tensor | None:
    rule = work.plan.gain
    if rule is None:
        return None
    return rule(replace(_context(work, 0, None), source=work.before if rule.source is None else rule.source))


def _earlier(work: Pass, index: Tensor | None) -> Earlier | None:
    """The logits that correct those of this scale, if any do."""
    source = work.source("logits")
    if source < 0:
        return None
    at, images = Scale(work.call.schedule, source), len(work.cohort.images)
    rows = work.cohort.memory.get("logits", LAST, source, at.grid)
    return Earlier(rows, at, work.at, None if index is None else index[:images])


def _blocks(work: Pass) -> tuple[Tensor, Tensor | None, int]:
    """The residual stream of the tokens behind the last block, their positions (None: all), and how many
    rows the parts of all blocks have processed.

    Only tokens are reduced, restored and remembered, not the rows ahead of them."""
    model, cohort, at, tokens = work.call.model, work.cohort, work.at, work.plan.tokens
    grouped = {read.kind: read.sites for read in work.written if isinstance(read.sites, Grouping)}
    x = model.embed(cohort.latent, cohort.condition, at)
    rope = model.rope(at, cohort.condition)
    ahead = model.rows(at) - at.tokens
    work.show("embed", x)
    index, processed = None, 0
    for part in segments(model, tokens or next(iter(grouped.values()), None)):
        before, reduced = x[:, ahead:], None
        if tokens is not None and part.reducible:
            context = _context(work, part.group, None if rope is None else rope[..., ahead:, :, :])
            reduced = tokens.reduce(before, context)
            work.show(f"reduced.{part.group}", reduced.x)
            rows = Rows(ahead, reduced.grid or at.grid, reduced.index)
            y, count = _layers(work, part.layers, *_behind(x[:, :ahead], rope, reduced), rows, aligned=tokens.aligned)
        else:
            y, count = _layers(work, part.layers, x, rope, Rows(ahead, at.grid, index))
        processed += count
        if reduced is None:
            x = y
        elif tokens is not None and tokens.final:
            x, index = y, reduced.index
        elif tokens is not None:
            restored = tokens.restore(before, y[:, ahead:], reduced, context)
            x = torch.cat([y[:, :ahead], restored], 1) if ahead else restored
        for kind in grouped if part.reducible else ():
            own = x[:, ahead:] if kind == "hidden" else x[:, ahead:] - before
            cohort.memory.put(kind, part.group, work.k, own, at.grid)
        work.show(f"group.{part.group}", x)
    x = x[:, ahead:]
    if Read("hidden", work.k) in work.written:
        cohort.memory.put("hidden", LAST, work.k, x, at.grid)
    return x, index, processed


def _behind(ahead_RAC: Tensor, rope: Tensor | None, reduced: Reduced) -> tuple[Tensor, Tensor | None]:
    """Reduced rows and their rotary factors behind those rows that are never reduced."""
    count = ahead_RAC.shape[1]
    if not count:
        return reduced.x, reduced.rope
    x = torch.cat([ahead_RAC, reduced.x], 1)
    if rope is None or reduced.rope is None:
        return x, None
    first, rest = rope[..., :count, :, :], reduced.rope
    shape = torch.broadcast_shapes(first.shape[:-3], rest.shape[:-3])
    return x, torch.cat([part.expand(*shape, *part.shape[-3:]) for part in (first, rest)], -3)


def _context(work: Pass, group: int, rope: Tensor | None) -> TokenContext:
    cohort, branches = work.cohort, work.cohort.condition.rows // len(work.cohort.images)
    return TokenContext(
        scale=work.k,
        grid=work.at.grid,
        group=group,
        groups=work.call.model.groups,
        rope=rope,
        seeds=[work.call.seeds[image] for image in cohort.images] * branches,
        latent=cohort.latent,
        change=cohort.change,
        memory=cohort.memory,
        source=work.source("hidden", "increment", "watched"),
    )


def _layers(
    work: Pass, layers: range, x: Tensor, rope: Tensor | None, rows: Rows, *, aligned: bool = True
) -> tuple[Tensor, int]:
    """The stream behind consecutive blocks over rows x, and how many rows their parts have processed in sum."""
    model, cohort, plan, processed = work.call.model, work.cohort, work.plan, 0
    guide_behind = plan.guidance_layer if plan.branch == "both" else None
    if guide_behind is not None and guide_behind < 0:
        guide_behind += model.depth
    blocks: list[Block] = model.layers
    for layer in layers:
        attend = CachedAttention(work, cohort.cache if model.causal else None, layer, rows)
        work.watching.before(layer, x)
        x, count = through(work, blocks[layer], x, rows, BlockContext(layer, cohort.condition, rope, attend, aligned))
        processed += count
        if layer == guide_behind:
            x = _guide(x, work.here).repeat(2, 1, 1)
        work.watching.behind(layer, x)
        work.show(f"block.{layer}", x)
    return x, processed


@dataclass(frozen=True, slots=True)
class CachedAttention:
    """Self-attention of one layer at one scale over its history and itself.

    Attributes:
        work, cache, layer: of the pass; without a cache there is no history.
        rows: of the stream.
        chosen: (R, m) those of its rows that attend, None for all.
    """

    work: Pass
    cache: KVCache | None
    layer: int
    rows: Rows
    chosen: Tensor | None = None

    def __call__(self, q_RHMD: Tensor, k_RHMD: Tensor, v_RHMD: Tensor, /, *, scale: float) -> Tensor:
        work, keep = self.work, not self.work.last and self.work.plan.cache != "none"
        if self.cache is not None:
            k_RHMD, v_RHMD = self.cache.extend(self.layer, k_RHMD, v_RHMD, keep=keep, release=work.last)
        work.show(f"attended.{self.layer}", k_RHMD)
        work.watching.attention(self.layer, q_RHMD, k_RHMD, scale)
        if work.placed:
            look = self.look(keep, q_RHMD.device)
            pattern = pattern_at(work.plan.attend, self.layer, look.depth)
            if pattern is not None:
                return pattern(q_RHMD, k_RHMD, v_RHMD, scale=scale, look=look)
        return F.scaled_dot_product_attention(q_RHMD, k_RHMD, v_RHMD, scale=scale)

    def look(self, keep: bool, device: torch.device) -> Look:
        """Places of the rows that attend and of all keys, which are noted if the keys are kept."""
        queries = self.work.row_places(self.rows, self.chosen, device)
        places, keys = self.work.cohort.places, queries
        if self.cache is not None:
            keys = places.extend(self.layer, queries) if keep else joined(places.of(self.layer), queries)
        return self.work.look(self.layer, queries, keys)


def _guide(rows: Tensor, here: Sequence[ScalePlan]) -> Tensor:
    """``w * cond + (1 - w) * null`` of 2n rows, w per image."""
    cond, null = rows.chunk(2)
    w = per_image([plan.guidance for plan in here], rows)
    return w * cond + (1 - w) * null


def _carried(work: Pass, guided: int, index: Tensor | None) -> Tensor:
    """``(w - 1) * beta * d``: the guidance that scale ``guided`` showed, at this scale's positions."""
    difference = work.cohort.memory.get("guidance", LAST, guided, work.at.grid)
    if index is not None:
        difference = gather(difference, index)
    return per_image([(each.guidance - 1) * each.carry for each in work.here], difference) * difference
