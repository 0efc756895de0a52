"""Accelerators side by side in one process: the same captions and seeds, batch by batch in turn.

Time drifts on every machine, so a batch is drawn by all accelerators before the next one begins, the order moves by one
from batch to batch, each accelerator draws one untimed batch first, and speed is a ratio of times of the same batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, quantiles, variance
from typing import Any

import torch
from torch import Tensor

import stagevar
from stagevar.accelerators.base import Accelerator
from stagevar.errors import OptionError
from stagevar.loop.plan import Plan
from stagevar.loop.trace import Trace
from stagevar.measure.explain import text_rows
from stagevar.measure.fidelity import band_ratio, psnr, ssim
from stagevar.measure.flops import operations
from stagevar.measure.latency import by_accelerator
from stagevar.measure.score import MAX_CAPTIONS
from stagevar.pipeline import Pipeline
from stagevar.registry import parse
from stagevar.request import Request
from stagevar.scenes.captions import Scene, caption_suite
from stagevar.scenes.oracle import Verdict, judge

PLAIN = "none"


@dataclass(frozen=True, slots=True)
class Drawn:
    """One batch by one accelerator.

    Attributes:
        pictures: (n, 3, height, width) in [0, 1].
        trace: of the call; ``seconds`` its wall-clock time.
        plans: as they stood at the end.
    """

    pictures: Tensor
    trace: Trace
    seconds: float
    plans: tuple[Plan, ...]


def compare(
    pipeline: Pipeline,
    accelerators: Sequence[str],
    *,
    captions: int = 60,
    prompts: Sequence[str] = (),
    guidance: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    height: int | None = None,
    width: int | None = None,
    parts: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Draw the same captions with every accelerator; measure time, closeness to the plain run and the oracle's score.

    Args:
        accelerators: as ``stagevar.registry.parse`` reads them; ``none`` is added, and comes first.
        captions: pictures per accelerator; picture i has seed ``seed + i``.
        prompts: taken in turn instead of the scenes family's held-out captions; the oracle cannot read them.
        guidance: strength; the model's default if None.
        height, width: pixels; the model's default size if None.
        parts: also measure latency by part, in batches of their own.
        progress: told how many captions every accelerator has drawn.

    Returns:
        What was run and where, and ``rows``, one per accelerator. Seconds are sums over all captions; ``speedup`` is
        the median over batches of plain over accelerated network seconds; ``executed_scales`` are those of most
        pictures, in a share ``executed_share``; ``rows_processed`` and ``flops`` are means per picture; ``oracle`` and
        ``relaxed`` are null where the oracle cannot read.

    Raises:
        OptionError: an accelerator that does not exist or fit, or a number out of range.
    """
    if not 1 <= captions <= MAX_CAPTIONS:
        raise OptionError(f"captions must lie between 1 and {MAX_CAPTIONS}, not {captions}")
    if batch_size < 1:
        raise OptionError(f"batch_size must be 1 or more, not {batch_size}")
    model = pipeline.model
    names = _distinct([PLAIN, *accelerators])
    scenes = caption_suite(captions) if model.family == "scenes" and not prompts else []
    lines = prompts or model.samples
    texts = [scene.caption for scene in scenes] or [lines[i % len(lines)] for i in range(captions)]
    sampling: dict[str, Any] = {"height": height, "width": width, "guidance_scale": guidance}
    requests = [Request(text, seed=seed + i, **sampling) for i, text in enumerate(texts)]
    schedule = model.schedule(height, width)
    tallies = {name: Tally(scenes) for name in names}
    for name in names:
        draw(pipeline, requests[:batch_size], name)
    starts = range(0, captions, batch_size)
    for number, start in enumerate(starts):
        turn = number % len(names)
        batch = requests[start : start + batch_size]
        model.encode_text([request.prompt for request in batch])  # some encoders remember; then for all alike
        drawn = {name: draw(pipeline, batch, name) for name in names[turn:] + names[:turn]}
        for name, tally in tallies.items():
            tally.add(drawn[name], drawn[PLAIN])
        if progress is not None:
            progress(start + len(batch))
    cost = operations(model, schedule, text_rows(model, texts[:batch_size]))
    rows = [{"accelerator": name, **tally.row(tallies[PLAIN], cost)} for name, tally in tallies.items()]
    if parts:
        measured = by_accelerator(pipeline, names, requests[:batch_size])
        rows = [row | {"parts": measured[row["accelerator"]]} for row in rows]
    return {
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "model": model.name,
        "captions": captions,
        "batch": min(batch_size, captions),
        "size": list(model.picture_size(schedule)),
        "scales": len(schedule),
        "guidance": model.defaults.guidance if guidance is None else guidance,
        "seed": seed,
        "warm_up": "one untimed batch each",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "stagevar": stagevar.__version__,
        "rows": rows,
    }


def _distinct(accelerators: Sequence[str]) -> list[str]:
    """The texts as they were written, without those that say the same as an earlier one."""
    first: dict[Accelerator, str] = {}
    for text in accelerators:
        first.setdefault(parse(text), text.strip())
    return list(first.values())


def draw(pipeline: Pipeline, batch: Sequence[Request], accelerator: str) -> Drawn:
    """Draw one batch and take its time."""
    requests = [replace(request, accelerator=accelerator) for request in batch]
    began = time.perf_counter()
    for event in pipeline.events(requests, batch_size=len(requests), output_type="pt"):
        last = event
    seconds = time.perf_counter() - began
    assert last.result is not None
    return Drawn(torch.stack(last.result.images), last.result.trace, seconds, last.plans)


class Tally:
    """What one accelerator has drawn so far."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.scenes = scenes
        self.network: list[float] = []
        self.total: list[float] = []
        self.closeness: dict[str, list[float]] = {"ssim": [], "psnr": []}
        self.bands: list[Tensor] = []
        self.verdicts: list[Verdict] = []
        self.executed: Counter[tuple[int, ...]] = Counter()
        self.plans: Counter[Plan] = Counter()
        self.rows = 0

    def add(self, drawn: Drawn, plain: Drawn) -> None:
        """Count a batch in, beside the plain run's of the same noise."""
        self.network.append(drawn.trace.network_milliseconds / 1e3)
        self.total.append(drawn.seconds)
        self.closeness["ssim"] += ssim(drawn.pictures, plain.pictures).tolist()
        self.closeness["psnr"] += psnr(drawn.pictures, plain.pictures).tolist()
        self.bands.append(band_ratio(drawn.pictures, plain.pictures))
        self.executed.update(drawn.trace.executed(image) for image in range(len(drawn.plans)))
        self.plans.update(drawn.plans)
        self.rows += sum(record.rows for record in drawn.trace.records)
        if self.scenes:
            pixels = (drawn.pictures * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
            chosen = self.scenes[len(self.verdicts) : len(self.verdicts) + len(pixels)]
            self.verdicts += [judge(scene, picture) for scene, picture in zip(chosen, pixels, strict=True)]

    def row(self, plain: Tally, cost: Callable[[Plan], int]) -> dict[str, Any]:
        """All figures; see ``compare``."""
        pictures = self.plans.total()
        executed, most = self.executed.most_common(1)[0]
        strict, relaxed = ([float(getattr(v, kind)) for v in self.verdicts] for kind in ("strict", "relaxed"))
        gain = [own - float(v.strict) for own, v in zip(strict, plain.verdicts, strict=True)]
        ratios = [slow / fast for slow, fast in zip(plain.network, self.network, strict=True)]
        return {
            "network_seconds": sum(self.network),
            "total_seconds": sum(self.total),
            "speedup": median(ratios),
            "oracle": self._by_category(strict),
            "relaxed": self._by_category(relaxed),
            **{name: fmean(values) for name, values in self.closeness.items()},
            "executed_scales": list(executed),
            "rows_processed": self.rows / pictures,
            "flops": sum(cost(plan) * count for plan, count in self.plans.items()) / pictures,
            "executed_share": most / pictures,
            "speedup_quartiles": _quartiles(ratios),
            "total_speedup": median(slow / fast for slow, fast in zip(plain.total, self.total, strict=True)),
            "network_batch": _spread(self.network),
            "total_batch": _spread(self.total),
            "bands": torch.cat(self.bands).median(0).values.tolist(),
            "oracle_difference": self._by_category(gain),
            "oracle_difference_error": self._error(gain),
        }

    def _by_category(self, values: Sequence[float]) -> float | None:
        """The oracle's mean: over captions of a category, then over categories."""
        return fmean(fmean(group) for group in self._categories(values).values()) if values else None

    def _error(self, gain: Sequence[float]) -> float | None:
        """Standard error of the paired difference to the plain run; None with one caption in a category."""
        groups = self._categories(gain)
        if not groups or any(len(group) < 2 for group in groups.values()):
            return None
        return sum(variance(group) / len(group) for group in groups.values()) ** 0.5 / len(groups)

    def _categories(self, values: Sequence[float]) -> Mapping[str, list[float]]:
        groups: dict[str, list[float]] = {}
        for scene, value in zip(self.scenes, values, strict=False):
            groups.setdefault(scene.category, []).append(value)
        return groups


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    """Of the batches' seconds."""
    return {"median": median(seconds), "min": min(seconds), "max": max(seconds)}


def _quartiles(values: Sequence[float]) -> list[float]:
    """First and third quartile."""
    if len(values) == 1:
        return [values[0], values[0]]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return [low, high]
