"""What the scales of a plan read of earlier ones, and the check that every read has a writer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from stagevar.engine.plan.memory import MapKind
from stagevar.engine.plan.parts import Layers, Sites
from stagevar.engine.plan.passes import Passes
from stagevar.engine.plan.watch import Watch
from stagevar.errors import OptionError

if TYPE_CHECKING:
    from stagevar.engine.plan.plan import ScalePlan
    from stagevar.engine.plan.tokens import Scope


class Grouping(NamedTuple):
    """How blocks are grouped, as ``Tokens`` says it."""

    scope: Scope
    dense: tuple[float, float]


class Attended(NamedTuple):
    """The blocks in which a pattern of attention leaves something, as ``Pattern`` says it."""

    layers: Layers


@dataclass(frozen=True, slots=True)
class Read:
    """Maps that one scale reads of an earlier one.

    Attributes:
        kind: of the maps.
        scale: the scale that writes them.
        sites: of which groups of blocks or their parts, of which watch, or of which patterns of attention; None for the
            state behind the last block.
    """

    kind: MapKind
    scale: int
    sites: Grouping | Sites | Watch | Attended | None = None


Reads = tuple[tuple[Read, ...], ...]


def reads(scales: Sequence[ScalePlan], passes: Passes) -> Reads:
    """Per scale, what it reads of those that ran before its pass.

    Raises:
        OptionError: a map that nothing writes; names the scale.
    """
    found: list[tuple[Read, ...]] = [()] * len(scales)
    ran: int | None = None
    full: int | None = None
    for members in passes:
        for k in members:
            if ran is None and scales[k].run == "reuse":
                raise OptionError(f"scale {k} cannot reuse anything, as no scale runs before it")
            found[k] = tuple(_of(scales, k, ran, full))
            for read in found[k]:
                _check(scales, k, read, members)
        ran = members[-1]
        full = ran if scales[ran].run == "full" else full
    _check_groupings(found)
    return tuple(found)


def guided(scales: Sequence[ScalePlan], k: int) -> int | None:
    """The last scale up to k that ran both branches at all positions: its guidance can be carried."""
    for j in range(k, -1, -1):
        scale = scales[j]
        if scale.run != "skip" and scale.branch == "both" and (scale.tokens is None or not scale.tokens.final):
            return j
    return None


def _of(scales: Sequence[ScalePlan], k: int, ran: int | None, full: int | None) -> Iterator[Read]:
    """What scale k reads, where ``ran`` is the last scale that ran before its pass and ``full`` the last of these that
    passed the network."""
    scale, tokens = scales[k], scales[k].tokens
    if scale.run == "reuse" and full is not None:
        yield Read("hidden", full)
    elif scale.run == "full" and tokens is not None and tokens.needs:
        source = ran if tokens.source is None else tokens.source
        if source is None:
            raise OptionError(f"scale {k} cannot restore rows from a scale before it, as none runs")
        yield from (_needed(need, source, Grouping(tokens.scope, tokens.dense)) for need in tokens.needs)
    for rule in scale.parts if scale.run == "full" else ():
        for need, named in rule.needs:
            source = ran if named is None else named
            if source is None:
                raise OptionError(f"scale {k} cannot fill parts from a scale before it, as none runs")
            yield _needed(need, source, rule.sites)
    for pattern in scale.attend if scale.run == "full" else ():
        yield from (Read(kind, source, Attended(pattern.layers)) for kind, source in pattern.needs)
    if scale.gain is not None and scale.gain.needs:
        source = ran if scale.gain.source is None else scale.gain.source
        if source is None:
            raise OptionError(f"scale {k} cannot weigh codes by a scale before it, as none runs")
        yield from (_needed(need, source, None) for need in scale.gain.needs)
    if scale.correct is not None:
        source = ran if scale.correct.source is None else scale.correct.source
        if source is None:
            raise OptionError(f"scale {k} cannot be corrected by the logits of a scale before it, as none runs")
        yield Read("logits", source)
    if scale.carry and (source := guided(scales, k)) is not None:
        yield Read("guidance", source)
    yield from scale.remember


def _needed(need: MapKind | Watch, source: int, sites: Grouping | Sites | None) -> Read:
    if isinstance(need, Watch):
        return Read("watched", source, need)
    return Read(need, source, None if need == "logits" else sites)


def _check(scales: Sequence[ScalePlan], k: int, read: Read, members: Sequence[int]) -> None:
    if read.scale in members and read.scale < k:
        raise OptionError(f"scale {k} reads maps of scale {read.scale}, which runs in the same pass")
    if not 0 <= read.scale < k or scales[read.scale].run == "skip":
        raise OptionError(f"scale {k} reads maps of scale {read.scale}, which does not run before it")
    writer = scales[read.scale]
    if read.kind == "guidance":
        return
    if isinstance(read.sites, Watch):
        if read.sites not in writer.watch:
            raise OptionError(f"scale {k} reads {read.sites}, which scale {read.scale} does not watch")
        return
    if read.sites is None:
        if writer.tokens is not None and writer.tokens.final:
            what = "hidden states" if read.kind == "hidden" else read.kind
            raise OptionError(f"scale {k} reads the {what} of scale {read.scale}, whose rows stayed reduced")
        return
    if writer.run == "reuse":
        raise OptionError(f"scale {k} restores rows from scale {read.scale}, which did not pass through the network")
    own = writer.tokens
    if isinstance(read.sites, Attended):
        if not any(read.kind in each.leaves and each.layers == read.sites.layers for each in writer.attend):
            raise OptionError(f"scale {k} reads {read.kind} of scale {read.scale}, whose attention leaves none")
        return
    if isinstance(read.sites, Sites):
        if own is not None:
            raise OptionError(f"scale {k} reads parts of scale {read.scale}, whose rows are reduced")
        return
    if own is not None and (own.final or Grouping(own.scope, own.dense) != read.sites):
        raise OptionError(f"scale {k} restores rows from scale {read.scale}, whose tokens must be grouped alike")


def _check_groupings(found: Sequence[tuple[Read, ...]]) -> None:
    """The blocks of a scale are grouped in one way."""
    groupings: dict[int, Grouping] = {}
    for k, own in enumerate(found):
        for read in own:
            if isinstance(read.sites, Grouping) and groupings.setdefault(read.scale, read.sites) != read.sites:
                raise OptionError(f"scale {k} and one before it read scale {read.scale} in other groups of blocks")
