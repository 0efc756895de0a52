"""Where the time of a call goes: text, embedding, parts of the blocks, reduction, head, sampling, codes, decoding.

Nothing is added to the loop: a tap sees each tensor as it comes, hooks see the parts of the blocks, and the time since
the last of them belongs to what has just been finished. On a GPU every such moment waits for the device, so the sum is
longer than an unobserved call; compare shares, and take speeds from unobserved calls.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from stagevar.accelerators.base import Accelerator
from stagevar.engine.contract.model import ScaleModel
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PARTS = (
    "text",
    "embed",
    "select",
    "attention",
    "cross",
    "feed_forward",
    "restore",
    "head",
    "sample",
    "codes",
    "decode",
    "other",
)
"""Parts in the order of the report; parts of a block under another name come before ``other``. ``other`` is the time
between passes: regrouping, signals, dropping a branch's rows from the cache."""

_FINISHED = {
    "embed": "embed",
    "reduced": "select",
    "group": "restore",
    "logits": "head",
    "codes": "sample",
    "latent": "codes",
}
"""Tap's name to the part that has ended when it comes."""


def latency(pipeline: Pipeline, requests: Sequence[Request]) -> dict[str, float]:
    """Milliseconds by part of one call that draws all requests in one batch, warmed up by another.

    Args:
        pipeline: of any family.
        requests: of one picture size.
    """
    for _ in range(2):
        with watching(pipeline.model) as watch:
            result = None
            for event in pipeline.events(requests, batch_size=len(requests), output_type="pt", tap=watch):
                result = event.result
    assert result is not None
    parts = {name: seconds * 1e3 for name, seconds in watch.seconds.items()}
    parts["other"] = result.trace.network_milliseconds - sum(parts.values())
    parts["text"], parts["decode"] = result.trace.text_milliseconds, result.trace.decode_milliseconds
    foreign = [name for name in parts if name not in PARTS]
    return {name: parts.get(name, 0.0) for name in (*PARTS[:-1], *foreign, "other")}


class Stopwatch:
    """A tap of the loop that adds the time since its last call to the part that has just ended.

    Attributes:
        seconds: by part.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device, self._last, self._part = device, 0.0, ""

    def __call__(self, name: str, scale: int, tensor: Tensor) -> None:
        kind = name.partition(".")[0]
        if kind == "begin":
            self._last = self._now()
        elif kind == "block":
            self.book(self._part)
        elif kind in _FINISHED:
            self.book(_FINISHED[kind])

    def book(self, part: str) -> None:
        """Add the time since the last call to ``part``, which has just ended."""
        now = self._now()
        self.seconds[part] += now - self._last
        self._last, self._part = now, part

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@contextmanager
def watching(model: ScaleModel) -> Iterator[Stopwatch]:
    """A stopwatch that also sees the parts of the model's blocks, until the end of the context."""
    watch = Stopwatch(model.device)
    hooks = [
        part.register_forward_hook(lambda *_, name=name: watch.book(name))
        for block in model.layers
        for name, part in block.named_children()
    ]
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def by_accelerator(
    pipeline: Pipeline, accelerators: Mapping[str, Accelerator], requests: Sequence[Request]
) -> dict[str, dict[str, float]]:
    """``latency`` of the same requests under each accelerator."""
    return {
        name: latency(pipeline, [replace(each, accelerator=own) for each in requests])
        for name, own in accelerators.items()
    }
