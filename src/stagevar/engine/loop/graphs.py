"""Scales of static plans, captured once as graphs of the device and replayed for every batch of their kind.

A small scale is hundreds of small kernels, which the host starts more slowly than the device runs them. A graph starts
them all at once, but always on the same memory. So what changes between batches is copied to where the graphs read it:
the condition, the latent, and keys and values. A graph holds the blocks and the head of one scale that runs in full;
guidance, draws and scales that accelerators change are run as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from threading import Lock
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.contract.block import Condition
from stagevar.engine.grids.computing import computing
from stagevar.engine.grids.grid import Scale
from stagevar.engine.grids.rows import Branch
from stagevar.engine.loop.cache import KVCache
from stagevar.engine.loop.call import Call, Scored
from stagevar.engine.loop.cohort import Cohort, after, capacities, stored_in
from stagevar.engine.loop.forward import scored
from stagevar.engine.loop.places import KeyPlaces
from stagevar.engine.loop.scale_pass import Pass
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.plan import Plan, ScalePlan

TEXT_STEP = 64
"""Text is padded to multiples of this length, so that prompts of other lengths find the same graphs."""


class Graph(Protocol):
    """Captured work of the device."""

    def replay(self) -> None: ...


Capture = Callable[[Callable[[], Scored]], tuple[Graph, Scored]]
"""Captures what a function does; its result lies where every replay writes it."""


class CudaCapture:
    """Captures CUDA graphs that share one memory pool: replays follow one another, so their scratch may overlap."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, body: Callable[[], Scored]) -> tuple[Graph, Scored]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = body()
        return graph, result


class Graphs:
    """The graphs of one pipeline, for the kind of batch that it drew last.

    Args:
        capture: makes what captures the graphs of one kind of batch.
    """

    def __init__(self, capture: Callable[[], Capture] = CudaCapture) -> None:
        self.capture = capture
        self._kind: object = None
        self._replays: Replays | None = None
        self._lent = Lock()

    @contextmanager
    def lent(self, call: Call, condition: Condition) -> Iterator[Replays | None]:
        """The replays for a batch, until its run ends. None if plans may be revised or part, if the prompts' rows go
        before the null rows, if patterns or evictions need the places of keys, if someone watches the tensors, or if
        another run has the replays."""
        static = not call.revised and call.tap is None and len({_shapes(plan) for plan in call.plans}) == 1
        static = static and not call.plans[0].placed
        single = any(scale.branch == "null" for scale in call.plans[0])
        if not static or single or not self._lent.acquire(blocking=False):
            yield None
            return
        try:
            with computing():
                given = padded(condition)
                if self._kind != (kind := _kind(call, given)):
                    self._kind, self._replays = kind, None  # frees the old ones first
                    self._replays = Replays(call, given, self.capture())
            yield self._replays
        finally:
            self._lent.release()


class Replays:
    """Graphs of one kind of batch, and the memory that they read and write.

    The first batch of a kind runs without graphs, which warms the kernels up and shows how many rows the cache holds
    before each scale. The second one captures, the largest scale first, so that smaller ones fit into its memory.
    """

    def __init__(self, call: Call, condition: Condition, capture: Capture) -> None:
        n = len(call.plans)
        self._capture = capture
        self._inputs = {branch: _part(condition, branch) for branch in {scale.branch for scale in call.plans[0]}}
        self._inputs["both"] = _part(condition, "both")
        self._latent = call.model.empty_latent(n, call.schedule)
        self._cache = HeldCache(call.model.depth, capacities(call, 0), stored_in(call.plans[0]))
        self._before: dict[int, list[int]] = {}
        self._captured: dict[int, _Captured] = {}

    def start(self, call: Call, condition: Condition) -> Cohort:
        """The cohort of a new batch, and the graphs of all scales that have run before."""
        given = padded(condition)
        for branch, held in self._inputs.items():
            for place, tensor in zip(_tensors(held), _tensors(_part(given, branch)), strict=True):
                place.copy_(tensor)
        images = tuple(range(len(call.plans)))
        for k in sorted(
            self._before.keys() - self._captured.keys(), key=lambda k: -call.model.rows(Scale(call.schedule, k))
        ):
            branch = call.plans[0][k].branch
            self._cache.restart(self._before[k])
            if branch != "both":
                self._cache.narrow(images)
            cohort = self._cohort(call, branch, self._latent)
            graph, result = self._capture(partial(_alone, Pass(call, cohort, k)))
            self._captured[k] = _Captured(graph, result, self._cache.lengths)
        self._cache.restart()
        return self._cohort(call, "both", call.model.empty_latent(len(images), call.schedule))

    def _cohort(self, call: Call, branch: Branch, latent: Tensor) -> Cohort:
        """All images of a batch over the held inputs and cache."""
        images, places = tuple(range(len(call.plans))), KeyPlaces(call.model.depth)
        return Cohort(images, branch, self._inputs[branch], self._cache, places, Memory(), latent, latent)

    def replay(self, work: Pass) -> Scored | None:
        """What ``scored`` returns, by the scale's graph; None if it has none, or if images have left. The next replay
        overwrites it."""
        if work.cohort.cache is not self._cache:
            return None
        found = self._captured.get(work.k)
        if found is None:
            if _plain(work):
                self._before.setdefault(work.k, self._cache.lengths)
            return None
        self._latent.copy_(work.cohort.latent)
        found.graph.replay()
        self._cache.lengths = found.after
        return found.result


def _alone(work: Pass) -> Scored:
    """Blocks and head of a scale that has a pass of its own."""
    (found,) = scored([work])
    return found


@dataclass(frozen=True, slots=True)
class _Captured:
    """Graph of a scale, what it computes, and how many rows each layer's cache holds behind it."""

    graph: Graph
    result: Scored
    after: list[int]


class HeldCache(KVCache):
    """A cache whose storage stays where it is, from scale to scale and from batch to batch."""

    _whole: list[tuple[Tensor, Tensor] | None] | None = None

    @property
    def lengths(self) -> list[int]:
        """Positions held by each layer."""
        return list(self._lengths)

    @lengths.setter
    def lengths(self, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)

    def extend(
        self, layer: int, k_RHMD: Tensor, v_RHMD: Tensor, *, keep: bool, release: bool = False
    ) -> tuple[Tensor, Tensor]:
        found = super().extend(layer, k_RHMD, v_RHMD, keep=keep)
        if release:
            self._lengths[layer] = 0
        return found

    def narrow(self, rows: Tensor | Sequence[int]) -> None:
        """Keep the first rows only, in place; those of the prompts come first."""
        if self.rows > len(rows):
            self._whole = self._stores
            self._stores = [store and (store[0][: len(rows)], store[1][: len(rows)]) for store in self._stores]

    def restart(self, lengths: Sequence[int] | None = None) -> None:
        """Take all rows again, with the given numbers of positions, or none."""
        self._stores, self._whole = self._whole or self._stores, None
        self.lengths = lengths or [0] * len(self._stores)


def padded(condition: Condition) -> Condition:
    """The condition with its text padded to a multiple of ``TEXT_STEP``, and with a mask."""
    if not condition.text_kv:
        return condition
    keys = condition.text_kv[0][0]
    length, mask = keys.shape[2], condition.text_mask
    more = -length % TEXT_STEP
    if mask is None:
        mask = torch.ones(len(keys), length, dtype=torch.bool, device=keys.device)
    text = tuple((F.pad(k, (0, 0, 0, more)), F.pad(v, (0, 0, 0, more))) for k, v in condition.text_kv)
    return replace(condition, text_kv=text, text_mask=F.pad(mask, (0, more)))


def _part(condition: Condition, branch: Branch) -> Condition:
    """A copy of the rows of a branch."""
    return condition.take(range(condition.rows if branch == "both" else condition.rows // 2))


def _plain(work: Pass) -> bool:
    """Whether a scale runs in full, and leaves and reads no maps of its blocks."""
    run = [replace(each, branch="both", carry=0.0, correct=None, smooth=None) for each in work.here]
    full = all(each.shape == ScalePlan().shape for each in run) and not any(each.carry for each in work.here)
    return full and all(read.kind in ("guidance", "logits") for read in work.written)


def _kind(call: Call, condition: Condition) -> object:
    """What batches have in common that replay the same graphs: weights, shapes and plans."""
    weight = next(call.model.blocks.parameters())
    tensors = tuple((each.shape, each.dtype) for each in _tensors(condition))
    return weight.data_ptr(), weight.dtype, call.schedule, tensors, _shapes(call.plans[0])


def _shapes(plan: Plan) -> tuple[object, ...]:
    return tuple((scale.shape, after(plan, k)) for k, scale in enumerate(plan))


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a condition, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _tensors(getattr(value, each.name))
