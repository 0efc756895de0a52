"""Time of the plain run: ``python benchmarks/plain_run.py``.

Random weights take as long as trained ones, so sizes whose weights are not at hand are timed too. Appends to
``results/plain_run.jsonl``: per model and batch the median and spread of seconds per picture, and milliseconds
per scale, after a warm-up.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from typing import Any

from store import append, arguments

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Schedule
from stagevar.families.tiny import tiny
from stagevar.families.tokenizers.bsq import TokenizerConfig
from stagevar.machine import machine
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PROMPT = "a red circle to the left of a blue square"
TOKENIZER = TokenizerConfig(bits=32, stride=16, base=32, encoder=None, decoder=(1, 2, 4, 4, 4), residual_blocks=1)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for model, size, batch in cases():
        pipe = Pipeline(model.to(options.device))
        rows.append(timed(pipe, size, batch, options.repeats))
        print(json.dumps({key: value for key, value in rows[-1].items() if key != "scales"}))
    report = {
        **machine(pipe.model),
        "repeats": options.repeats,
        "rows": rows,
    }
    append("plain_run", options.device, report, options.out)


def cases() -> Iterator[tuple[ScaleModel, tuple[int | None, int | None], int]]:
    """Model, picture size and batch."""
    scenes = Pipeline.from_pretrained("scenes", device="cpu").model
    for batch in (1, 8):
        yield scenes, (None, None), batch
    layer12 = tiny("infinity", width=768, depth=12, heads=8, chunks=4, tokenizer=TOKENIZER, budget="1M")
    layer12.name = "infinity-0.1b, random weights"
    yield layer12, (256, 256), 1


def timed(pipe: Pipeline, size: tuple[int | None, int | None], batch: int, repeats: int) -> dict[str, Any]:
    requests = [Request(PROMPT, seed=i, height=size[0], width=size[1], guidance_scale=3.0) for i in range(batch)]
    traces = []
    for _ in range(repeats + 1):
        events = list(pipe.events(requests, batch_size=batch))
        assert events[-1].result is not None
        traces.append(events[-1].result.trace)
    seconds = [trace.network_milliseconds / 1e3 / batch for trace in traces[1:]]
    decode = [trace.decode_milliseconds / 1e3 / batch for trace in traces[1:]]
    by_scale = [trace.by_scale() for trace in traces[1:]]
    schedule: Schedule = pipe.model.schedule(*size)
    return {
        "model": pipe.model.name,
        "dtype": str(pipe.model.dtype).removeprefix("torch."),
        "batch": batch,
        "size": list(pipe.model.picture_size(schedule)),
        "executed_scales": list(traces[0].executed(0)),
        "network_seconds": {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)},
        "decode_seconds": statistics.median(decode),
        "scales": [
            {
                "grid": by_scale[0][k]["grid"],
                "milliseconds": statistics.median(rows[k]["milliseconds"] for rows in by_scale),
            }
            for k in range(len(schedule))
        ],
    }


if __name__ == "__main__":
    main()
