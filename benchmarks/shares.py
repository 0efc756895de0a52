"""Share of a plain run's time outside matrix products and attention: ``python benchmarks/shares.py``.

The shipped model, and the shapes of ``plain.py`` with random weights, in float32 and bfloat16 at batch 1, scale by
scale: what PyTorch's profiler counts in the operators of products and attention, against all operators. Appends to
``results/shares.jsonl``. The profiler makes small scales slower, so that their shares are upper bounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from plain import Shape, infinity, var
from store import append, arguments
from torch.profiler import ProfilerActivity, profile

from stagevar.machine import machine
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PRODUCTS = ("mkldnn::_linear_pointwise", "aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::_addmm")
ATTENTION = ("aten::_scaled_dot_product", "aten::_flash_attention", "aten::_softmax")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="*", default=["scenes", "var-d16", "infinity-0.13b"])
    options = parser.parse_args()
    rows = []
    for pipe, request in pipelines(options.models, options.device):
        for dtype in ("float32", "bfloat16"):
            pipe.to(dtype=dtype)
            rows.append({"model": pipe.model.name, "dtype": dtype, "batch": 1, "outside": outside(pipe, request)})
            print(json.dumps(rows[-1]), flush=True)
    append("shares", options.device, {**machine(pipe.model), "rows": rows}, options.out)


def pipelines(models: list[str], device: str) -> Iterator[tuple[Pipeline, Request]]:
    """One model in memory at a time, and what it draws."""
    if "scenes" in models:
        pipe = Pipeline.from_pretrained("scenes", device=device)
        yield pipe, Request(pipe.model.samples[0], seed=0)
    for name, shape in (("var-d16", var), ("infinity-0.13b", infinity)):
        if name in models:
            built: Shape = shape()
            built.model.name = name
            yield Pipeline(built.model).to(device), built.requests(1)[0]


def outside(pipe: Pipeline, request: Request) -> list[float]:
    """Per scale the share of the operators' time that is neither a product nor attention, after a run to warm up."""
    for _ in pipe.events([request], output_type="latent"):
        pass
    events, shares = pipe.events([request], output_type="latent"), list[float]()
    while True:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            event = next(events, None)
        if event is None:
            return shares
        times: list[tuple[str, Any]] = [(each.key, each.self_cpu_time_total) for each in seen.key_averages()]
        inside = sum(time for name, time in times if name.startswith((*PRODUCTS, *ATTENTION)))
        shares.append(1 - inside / sum(time for _, time in times))


if __name__ == "__main__":
    main()
