"""One pass of one cohort through the network, at one scale or several: blocks, head, guidance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from torch import Tensor

from stagevar.engine.contract.block import Block, BlockContext, Part
from stagevar.engine.grids.grid import Scale
from stagevar.engine.grids.rows import expand_rows, gather
from stagevar.engine.grids.sent import per_image
from stagevar.engine.loop.attend import CachedAttention
from stagevar.engine.loop.call import Output, Scored
from stagevar.engine.loop.parts import Share
from stagevar.engine.loop.scale_pass import Pass
from stagevar.engine.loop.stream import Stream, joined, joined_rope
from stagevar.engine.plan.correct import Earlier
from stagevar.engine.plan.memory import LAST, MapKind
from stagevar.engine.plan.parts import Sites
from stagevar.engine.plan.plan import ScalePlan
from stagevar.engine.plan.reads import Read
from stagevar.engine.plan.signals import flipped


def forward(together: Sequence[Pass]) -> dict[int, Output]:
    """Guided logits of one cohort at the scales that share a pass, by scale."""
    cohort, call = together[0].cohort, together[0].call
    cached = cohort.cache.mean_length
    for work in together:
        work.show("begin", cohort.latent)
    replayed = call.replay(together[0]) if len(together) == 1 else None
    found = [replayed] if replayed is not None else scored(together)
    outputs = {work.k: _guided(work, each, cached) for work, each in zip(together, found, strict=True)}
    cohort.memory.keep_only(_kept_maps(together[-1]))
    return outputs


def _guided(work: Pass, found: Scored, cached: int) -> Output:
    """What a pass yields of one scale, of the logits of its branches."""
    n, both = len(work.cohort.images), work.plan.branch == "both"
    x, logits, index = found.hidden, found.logits, found.index
    told = work.call.model.evidence(work.cohort.latent, work.cohort.condition, work.at)
    if told is not None:
        told = expand_rows(told, len(logits))
        logits = logits + (told if index is None else gather(told, index))
    if work.guided == work.k and not work.last and (work.call.revised or Read("guidance", work.k) in work.written):
        work.cohort.memory.put("guidance", LAST, work.k, x[:n] - x[n:], work.at.grid)
    earlier, gain = _earlier(work, index), _gain(work)
    temperatures = [each.temperature or 1.0 for each in work.here]
    if set(temperatures) != {1.0}:
        logits = logits / per_image(temperatures * (len(logits) // n), logits)
    cond, flips = logits[:n], None
    if both and work.plan.guidance_layer is None:
        logits = _guide(logits, work.here)
        flips = flipped(logits, cond) if "flips" in work.call.signals else None
    elif both:
        logits = cond
    if Read("logits", work.k) in work.written:
        work.cohort.memory.put("logits", LAST, work.k, logits.flatten(2).clone(), work.at.grid)
    if work.plan.correct is not None and earlier is not None:
        logits = work.plan.correct(logits.flatten(2), earlier).view_as(logits)
    work.watching.codes(logits, temperatures)
    for watch, seen in work.watching.maps.items():
        if Read("watched", work.k, watch) in work.written:
            work.cohort.memory.put("watched", watch, work.k, seen[..., None], work.at.grid)
    positions = None if index is None else index[:n]
    return Output(x, logits, positions, found.processed, cached, flips, gain, work.watching.maps)


def scored(together: Sequence[Pass]) -> list[Scored]:
    """Blocks and head of one cohort at the scales that share a pass."""
    if together[0].plan.run == "reuse":
        (work,) = together
        x = work.cohort.memory.get("hidden", LAST, work.source("hidden"), work.at.grid)
        return [_headed(work, x, None, 0)]
    return [_headed(s.work, s.tokens, s.rows.index, s.processed) for s in _blocks(together)]


def _headed(work: Pass, x: Tensor, index: Tensor | None, processed: int) -> Scored:
    """Scores of the rows x behind the last block."""
    if Read("hidden", work.k) in work.written and work.plan.run == "full":
        work.cohort.memory.put("hidden", LAST, work.k, x, work.at.grid)
    if any(each.carry for each in work.here) and work.guided is not None:
        x = x + _carried(work, work.guided, index)
    return Scored(x, work.call.model.logits(x, work.cohort.condition, work.at), index, processed)


def _kept_maps(work: Pass) -> set[tuple[MapKind, int]]:
    """Kind and scale of the maps that later scales read, or may read once their plans are revised."""
    kept = {(read.kind, read.scale) for read in work.read_later}
    if work.call.revised and work.guided is not None and not work.last:
        kept.add(("guidance", work.guided))
    return kept


def _gain(work: Pass) -> Tensor | None:
    """How much the codes of all tokens count, if the plan says."""
    rule = work.plan.gain
    return None if rule is None else rule(work.context(work.before if rule.source is None else rule.source))


def _earlier(work: Pass, index: Tensor | None) -> Earlier | None:
    """The logits that correct those of this scale, if any do."""
    source = work.source("logits")
    if source < 0:
        return None
    at, images = Scale(work.call.schedule, source), len(work.cohort.images)
    rows = work.cohort.memory.get("logits", LAST, source, at.grid)
    return Earlier(rows, at, work.at, None if index is None else index[:images])


def _blocks(together: Sequence[Pass]) -> list[Stream]:
    """The residual streams of the scales behind the last block."""
    model, streams = together[0].call.model, [Stream(work) for work in together]
    for layer, block in enumerate(model.layers):
        for stream in streams:
            stream.enter(layer)
            stream.work.watching.before(layer, stream.x)
        _through(streams, block, layer)
        for stream in streams:
            work, behind = stream.work, stream.work.plan.guidance_layer
            if behind is not None and work.plan.branch == "both" and behind % model.depth == layer:
                stream.x = _guide(stream.x, work.here).repeat(2, 1, 1)
            work.watching.behind(layer, stream.x)
            work.show(f"block.{layer}", stream.x)
            stream.leave(layer)
    return streams


def _through(streams: Sequence[Stream], block: Block, layer: int) -> None:
    """Run one block on the streams of all scales of a pass."""
    depth = streams[0].work.call.model.depth
    for role, part in zip(block.roles, block.parts, strict=True):
        shares = [Share.of(stream, layer, role) for stream in streams]
        for share, increment in zip(shares, _increments(shares, block, part, layer), strict=True):
            stream, work = share.stream, share.stream.work
            if any(isinstance(read.sites, Sites) and read.sites.has(layer, role, depth) for read in work.written):
                own = increment[:, stream.rows.ahead :]
                work.cohort.memory.put("part", (layer, role), work.k, own, work.at.grid)
            work.show(f"part.{layer}.{role}", increment)
            stream.x, stream.processed = stream.x + increment, stream.processed + len(stream.x) * share.count


def _increments(shares: Sequence[Share], block: Block, part: Part, layer: int) -> Iterator[Tensor]:
    """What a part adds to each stream. Streams that follow one another and are aligned alike are processed at once."""
    for (some, aligned), alike in groupby(shares, lambda share: (share.count > 0, share.aligned)):
        run = list(alike)
        own: Sequence[Tensor] = [share.x for share in run]
        if some:
            rope = joined_rope([share.rope for share in run])
            attend = CachedAttention(run, block, layer)
            context = BlockContext(layer, run[0].stream.work.cohort.condition, rope, attend, aligned)
            own = part(joined(own), context).split([share.count for share in run], 1)
        yield from (share.increment(rows) for share, rows in zip(run, own, strict=True))


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
