"""The plain run against a twin of the authors' code: ``python benchmarks/plain.py [--quick] [--json]``.

Both draw in turns, from the same random weights, on the shapes of Infinity-0.13B at 512x512 and VAR-d16 at 256x256.
Appends to ``results/plain.jsonl``: per shape, dtype and batch the median seconds of a whole call (text to pictures, not
the text encoder), the ratios of whole, network and decoder, and the bytes that the keys and values take at their peak;
and of our network the seconds beside those that its operations take at the rate of a large product in the same run.
``--quick`` runs the rows that fit into 80 s once and writes nothing; ``--json`` prints the report alone.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from store import append, arguments
from twin import Twin

from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.plan.plan import Plan
from stagevar.families.infinity.network import Infinity, InfinityConfig
from stagevar.families.linear import Linear, pack
from stagevar.families.tiny import randomize
from stagevar.families.tokenizers.bsq import TokenizerConfig
from stagevar.families.var.network import VAR, VARConfig
from stagevar.loading.place import DTYPES
from stagevar.machine import machine
from stagevar.measure.predict.flops import plan_flops
from stagevar.pipeline import Pipeline
from stagevar.request import EncodedPrompt, Request

WORDS = 32
"""Text tokens of a prompt, about as many as a long sentence has."""

SIDE = 2048
"""Rows and columns of the product whose rate is the limit."""

BUDGET = 80.0
"""Seconds that ``--quick`` may take."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A network of published shape with random weights, and what both sides are asked to draw.

    Attributes:
        teraflops: of one picture, about; it tells which rows fit into the time.
    """

    name: str
    model: VAR | Infinity
    side: int
    guidance: float
    teraflops: float

    @property
    def schedule(self) -> Schedule:
        return self.model.schedule(self.side, self.side)

    @property
    def operations(self) -> int:
        """Of the network, for one picture."""
        plan = Plan.uniform(len(self.schedule))
        return sum(each.total for each in plan_flops(self.model, self.schedule, plan, WORDS))

    def texts(self, batch: int) -> list[Text]:
        """One encoded prompt per picture."""
        generator = torch.Generator().manual_seed(0)
        if isinstance(self.model, VAR):
            return [Text((torch.tensor([207 + i]),)) for i in range(batch)]
        channels = self.model.config.text_channels
        return [Text((torch.randn(WORDS, channels, generator=generator),)) for _ in range(batch)]

    def requests(self, batch: int) -> list[Request]:
        return [
            Request(
                "encoded",
                encoded=EncodedPrompt("encoded", self.model.family, text),
                seed=seed,
                height=self.side,
                width=self.side,
                guidance_scale=self.guidance,
            )
            for seed, text in enumerate(self.texts(batch))
        ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="one turn, within 80 s; write nothing")
    parser.add_argument("--seconds", type=float, help="leave out the rows that do not fit into this time")
    parser.add_argument("--json", action="store_true", help="print the report alone")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    seconds = BUDGET if options.quick else options.seconds or math.inf
    began, rows, left_out, done = time.perf_counter(), [], [], 0.0
    for shape, dtype, batch in cases():
        cost = batch * shape.teraflops
        spent = time.perf_counter() - began
        if done and spent * (1 + cost / done) > seconds:
            left_out.append({"shape": shape.name, "dtype": dtype, "batch": batch})
            continue
        rows.append(compared(shape, dtype, batch, 1 if options.quick else options.repeats, options.device))
        done += cost
        if not options.json:
            print(json.dumps(rows[-1]), flush=True)
    report = {**machine(shape.model), "repeats": 1 if options.quick else options.repeats, "rows": rows}
    report["left_out"] = left_out
    if options.json:
        print(json.dumps(report))
    if not options.quick:
        append("plain", options.device, report, options.out)


def cases() -> Iterator[tuple[Shape, str, int]]:
    """Shape, dtype and batch; the networks one in memory at a time, the cheap one first."""
    for shape in (var, infinity):
        built = shape()
        for batch in (1, 4):
            for dtype in ("float32", "bfloat16"):
                yield built, dtype, batch


def var() -> Shape:
    model = VAR(VARConfig(width=1024, depth=16, heads=16))
    randomize(model, 0)
    return Shape("var-d16", model.eval(), 256, 4.0, teraflops=0.9)


def infinity() -> Shape:
    model = Infinity(InfinityConfig(768, 12, 8, tokenizer=TokenizerConfig(encoder=None), budget="0.25M"))
    randomize(model, 0)
    return Shape("infinity-0.13b", model.eval(), 512, 3.0, teraflops=2.8)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one call: conditions and all scales, then decoding."""

    network: float
    decoder: float

    @property
    def whole(self) -> float:
        return self.network + self.decoder


def compared(shape: Shape, dtype: str, batch: int, repeats: int, device: str) -> dict[str, Any]:
    """Both sides in turns, after a warm-up of each if there are several. A ratio is the median over the turns."""
    shape.model.to(device)
    twin = Twin(shape.model, DTYPES[dtype])
    pipe = Pipeline(shape.model).to(device, dtype)
    pack(pipe.model)
    warm = repeats > 1
    turns = [(ours(pipe, shape, batch), theirs(twin, shape, batch)) for _ in range(repeats + warm)][warm:]

    def ratio(part: str) -> float:
        return statistics.median(getattr(slow, part) / getattr(fast, part) for fast, slow in turns)

    return {
        "shape": shape.name,
        "size": [shape.side, shape.side],
        "dtype": dtype,
        "batch": batch,
        "executed_scales": list(range(len(shape.schedule))),
        "seconds": statistics.median(fast.whole for fast, _ in turns),
        "reference_seconds": statistics.median(slow.whole for _, slow in turns),
        "ratio": ratio("whole"),
        "network_ratio": ratio("network"),
        "decoder_ratio": ratio("decoder"),
        "network_seconds": statistics.median(fast.network for fast, _ in turns),
        "network_limit_seconds": batch * shape.operations / rate(pipe.model.dtype, pipe.model.device),
        "kv_bytes": kept_bytes(shape, DTYPES[dtype], batch),
        "reference_kv_bytes": twin.kv_bytes,
    }


def ours(pipe: Pipeline, shape: Shape, batch: int) -> Times:
    event = [*pipe.events(shape.requests(batch), batch_size=batch, output_type="pt")][-1]
    assert event.result is not None
    trace = event.result.trace
    return Times((trace.text_milliseconds + trace.network_milliseconds) / 1e3, trace.decode_milliseconds / 1e3)


def theirs(twin: Twin, shape: Shape, batch: int) -> Times:
    schedule, defaults = shape.schedule, shape.model.defaults
    guidance = shape.model.guidance_schedule(shape.guidance, schedule)
    assert isinstance(defaults.temperature, float) and isinstance(defaults.top_k, int)
    sampling: dict[str, Any] = {"temperature": defaults.temperature, "top_k": defaults.top_k, "top_p": defaults.top_p}
    began = now(twin.model.device)
    latent = twin.latent(Text.joined(shape.texts(batch)), schedule, guidance, **sampling)
    drawn = now(twin.model.device)
    twin.decode(latent)
    return Times(drawn - began, now(twin.model.device) - drawn)


def rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a product of 2048 rows, the best of ten."""
    layer = Linear(SIDE, SIDE, bias=False).to(device, dtype).requires_grad_(False)
    x = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    pack(layer)
    times = []
    for _ in range(10):
        began = now(device)
        layer(x)
        times.append(now(device) - began)
    return 2 * SIDE**3 / min(times)


def now(device: torch.device) -> float:
    """The clock, when a device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def kept_bytes(shape: Shape, dtype: torch.dtype, batch: int) -> int:
    """Most bytes of our keys and values at once: those of all scales but the last in every block, and those of one
    block again, joined with the last scale's."""
    tokens = [h * w for h, w in shape.schedule]
    row = 2 * 2 * batch * shape.model.config.width * dtype.itemsize
    return row * (shape.model.depth * sum(tokens[:-1]) + sum(tokens))


if __name__ == "__main__":
    main()
