"""How many pictures reach the SSIM that ``stagevar(target=...)`` promises: ``python benchmarks/reached.py``.

Held-out captions that no fit has seen, with seeds of their own. Appends to ``results/reached.jsonl`` a row per target.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from store import append, arguments

from stagevar.machine import machine
from stagevar.measure.bench.draw import draw
from stagevar.measure.likeness.fidelity import ssim
from stagevar.measure.predict.explain import text_rows
from stagevar.measure.predict.flops import operations
from stagevar.measure.study.curves import LOW, quantile
from stagevar.measure.suites.known import suite_of
from stagevar.pipeline import Pipeline
from stagevar.request import Request

SEED = 50_000
"""Seed of the first picture, and of the draw of captions."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=["scenes"], help="names, or folders with a fit in them")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.85, 0.9, 0.95])
    options = parser.parse_args()
    report: dict[str, Any] = {"batch": options.batch_size, "rows": []}
    for name in options.models:
        pipe = Pipeline.from_pretrained(name, device=options.device, dtype="float32")
        requests = [Request(caption, seed=SEED + i) for i, caption in enumerate(unseen(pipe, options.pictures))]
        report |= machine(pipe.model)
        report["rows"] += rows(pipe, requests, options.batch_size, options.targets)
    append("reached", options.device, report, options.out)


def unseen(pipe: Pipeline, count: int) -> list[str]:
    """Captions that training has not seen."""
    suite = suite_of(pipe.model)
    assert suite is not None
    held_out = [question.caption for question in suite.questions(4 * count, SEED) if suite.held_out(question)]
    return held_out[:count]


def rows(
    pipe: Pipeline, requests: Sequence[Request], batch_size: int, targets: Sequence[float]
) -> list[dict[str, Any]]:
    """Per target how many pictures reach it, and what they cost."""
    names = {target: f"stagevar(target={target:g})" for target in targets}
    cost = operations(
        pipe.model, pipe.prepare(requests[0]).schedule, text_rows(pipe.model, [each.prompt for each in requests])
    )
    alike: dict[float, list[float]] = {target: [] for target in targets}
    spent: dict[float, list[int]] = {target: [] for target in targets}
    ratios: dict[float, list[float]] = {target: [] for target in targets}
    full: list[int] = []
    began = time.time()
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        plain = draw(pipe, batch, "none")
        full += map(cost, plain.plans)
        for target, name in names.items():
            drawn = draw(pipe, batch, name)
            alike[target] += ssim(drawn.pictures, plain.pictures).tolist()
            spent[target] += map(cost, drawn.plans)
            ratios[target].append(plain.trace.network_milliseconds / drawn.trace.network_milliseconds)
        print(f"{start + len(batch)} of {len(requests)}, {time.time() - began:.0f} s", flush=True)
    return [
        {
            "model": pipe.model.name,
            "size": list(pipe.prepare(requests[0]).size),
            "pictures": len(requests),
            "target": target,
            "reached": fmean(each >= target for each in alike[target]),
            "ssim": fmean(alike[target]),
            "ssim_low": quantile(alike[target], LOW),
            "speedup": median(ratios[target]),
            "flop_ratio": fmean(full) / fmean(spent[target]),
            "plain": fmean(own == whole for own, whole in zip(spent[target], full, strict=True)),
            "executed_scales": "all",
        }
        for target in targets
    ]


if __name__ == "__main__":
    main()
