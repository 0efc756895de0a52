"""One call of the loop: what all its passes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.grids.noise import Uniforms
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import Signal
from stagevar.engine.plan.watch import Watch

Tap = Callable[[str, int, Tensor], None]
"""Observer ``(name, scale, tensor)``, told each tensor as soon as it is there; names are ``begin`` (the latent before
the pass), ``embed``, ``block.N`` and ``group.G`` (hidden state behind a block or group), ``part.N.ROLE`` (increment of
a part of a block), ``chosen.N.ROLE`` (the rows that a part has processed where not all), ``reduced.G`` (rows before a
group), ``places.G`` (their raster positions, where they have some), ``attended.N`` (keys of self-attention), ``kept.N``
(places of what stays in a layer's cache where something is dropped), ``logits``, ``codes``, ``residual`` and
``latent``."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What blocks and head make of one scale.

    Attributes:
        hidden: (R, r, C) states that the logits were made of.
        logits: (R, r, ...) of each row.
        index: (R, r) positions of the rows, None meaning all.
        processed: rows that the parts of all blocks have processed, in sum over parts.
    """

    hidden: Tensor
    logits: Tensor
    index: Tensor | None
    processed: int


@dataclass(frozen=True, slots=True)
class Output:
    """What a pass yields of one scale.

    Attributes:
        hidden: (R, r, C) states that the logits were made of.
        logits: (n, r, ...), guided and divided by the temperature.
        index: (n, r) positions of the rows, None meaning all.
        processed: rows that the parts of all blocks have processed, in sum over parts.
        cached: positions per row that the cache held before the pass, a mean over layers.
        flips: (n,) share of codes whose most likely value guidance changed, where both branches ran.
        gain: (n, M) how much the codes of all tokens count; None all alike.
        maps: (n, M) of what the plan watches in blocks and head.
    """

    hidden: Tensor
    logits: Tensor
    index: Tensor | None
    processed: int
    cached: int
    flips: Tensor | None
    gain: Tensor | None
    maps: Mapping[Watch, Tensor]


@dataclass(frozen=True, slots=True)
class Call:
    """What is drawn, and how.

    Attributes:
        model: supplies the pieces.
        schedule: grids of the scales.
        seeds: one per image.
        plans: one per image; an entry is replaced when an accelerator revises it.
        revised: whether accelerators may revise plans.
        signals: what is then measured after every pass, besides what plans watch.
        noise: source of the uniform numbers.
        tap: observer of intermediate tensors.
        wanted: asked of every image before every pass; one that is not leaves, and its rows are freed.
        replay: hidden states and logits of a scale (a ``Pass``) by its captured graph; None where it has none.
    """

    model: ScaleModel
    schedule: Schedule
    seeds: Sequence[int]
    plans: list[Plan]
    revised: bool
    signals: frozenset[Signal]
    noise: Uniforms
    tap: Tap | None
    wanted: Callable[[int], bool]
    replay: Callable[[Any], Scored | None]
