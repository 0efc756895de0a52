"""Pictures drawn alone against the same ones drawn in batches of four: ``python benchmarks/batches.py``.

The shipped model and a random one of every family, in every dtype. Appends to ``results/batches.jsonl``: the largest
difference of a pixel in levels of 255, how many pictures have a larger one than a single level, and the SSIM of those.
One level is what rounding in the decoder may do; other codes do more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from store import append, arguments

from stagevar.calling import expand
from stagevar.families.catalogue import FAMILIES
from stagevar.families.tiny import tiny
from stagevar.loading.place import DTYPES
from stagevar.machine import machine
from stagevar.measure.likeness.fidelity import ssim
from stagevar.pipeline import Pipeline
from stagevar.request import Request

BATCH = 4


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pictures", type=int, default=40)
    options = parser.parse_args()
    rows = []
    for dtype in DTYPES:
        for pipe in pipelines(options.device):
            pipe.to(dtype=dtype)
            rows.append({"model": pipe.model.name, "dtype": dtype, **compared(pipe, requests(pipe, options.pictures))})
            print(json.dumps(rows[-1]), flush=True)
    facts = machine(pipe.model)
    del facts["dtype"]
    append("batches", options.device, {**facts, "batch": BATCH, "rows": rows}, options.out)


def pipelines(device: str) -> Iterator[Pipeline]:
    """The shipped model first."""
    yield Pipeline.from_pretrained("scenes", device=device)
    for family in FAMILIES:
        yield Pipeline(tiny(family).to(device))


def requests(pipe: Pipeline, count: int) -> list[Request]:
    """The model's own prompts in turn, each picture with a seed of its own."""
    prompts = [pipe.model.samples[i % len(pipe.model.samples)] for i in range(count)]
    return expand(prompts, seed=range(count))


def compared(pipe: Pipeline, asked: list[Request]) -> dict[str, Any]:
    alone, together = (drawn(pipe, asked, batch) for batch in (1, BATCH))
    levels = (alone - together).abs().flatten(1).max(1).values
    differ = levels > 1
    likeness = ssim(together[differ] / 255, alone[differ] / 255).tolist() if differ.any() else []
    spread = {"ssim_median": median(likeness), "ssim_lowest": min(likeness)} if likeness else {}
    return {"pictures": len(asked), "levels": int(levels.max()), "different": len(likeness), **spread}


def drawn(pipe: Pipeline, asked: list[Request], batch: int) -> torch.Tensor:
    """Pictures (n, 3, h, w) of whole numbers 0 to 255."""
    *_, last = pipe.events(asked, batch_size=batch, output_type="pt")
    assert last.result is not None
    return (torch.stack(last.result.images) * 255).round()


if __name__ == "__main__":
    main()
