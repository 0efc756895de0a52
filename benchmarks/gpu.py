"""What a CUDA device draws, and how near to its ceilings: ``python benchmarks/gpu.py [--shapes infinity-2b ...]``.

First each family is compared with float32 on the CPU, and its replayed graphs with the loop; the script ends with code
5 if they differ. Then published shapes with random weights are timed by device events: the plain run with every kernel
started by itself, with graphs, each accelerator, and the twin of the authors' code for VAR and Infinity-2B. Appends to
``results/gpu.jsonl``: seconds, operations, bytes, and the least time that the matrix and copy ceilings of the device,
measured in the same run, allow for them. ``--tiny`` runs all this on small networks, on the CPU too, and writes
nothing.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from plain import Shape, theirs
from store import append, arguments
from torch import Tensor
from twin import Twin

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.computing import computing
from stagevar.engine.loop.call import Scored
from stagevar.engine.loop.graphs import CudaCapture, Graph, Graphs
from stagevar.engine.loop.run import run
from stagevar.engine.loop.trace import ScaleRecord, Trace
from stagevar.engine.plan.plan import Plan
from stagevar.errors import NumericError, OptionError, StagevarError, first_line
from stagevar.families.catalogue import FAMILIES
from stagevar.families.infinity.network import Infinity
from stagevar.families.stand_ins import noise_text
from stagevar.families.tiny import randomize, tiny
from stagevar.families.var.network import VAR
from stagevar.machine import machine
from stagevar.measure.predict.flops import plan_flops
from stagevar.pipeline import Pipeline
from stagevar.registry import known
from stagevar.request import Request

WORDS = 32
"""Text tokens of a prompt."""

CASES = {
    "infinity-2b": ("infinity", (1, 4)),
    "infinity-8b": ("infinity", (1, 4)),
    "var-d30": ("var", (1, 8, 64)),
    "hart-0.7b": ("hart", (1, 4)),
    "star-1024": ("star", (1, 4)),
    "switti-1024": ("switti", (1, 4)),
}
"""Name in the catalogue to family and batches."""

TWINS = "infinity-2b", "var-d30", "tiny-infinity", "tiny-var"
APART = {torch.float32: 2e-3, torch.bfloat16: 0.15}
"""Largest mean difference of logits to float32 on the CPU, relative to their spread."""
EQUAL = 0.98
"""Least share of a latent that replayed graphs have to draw as the loop does; a draw may fall on the other side."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=CASES, default=list(CASES), help="time these alone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="small networks, on any device; write nothing")
    options = parser.parse_args()
    device = torch.device(options.device)
    try:
        if device.type != "cuda" and not options.tiny:
            raise OptionError("benchmarks/gpu.py needs a CUDA device; --tiny runs its code on the CPU")
        report: dict[str, Any] = {"correct": [checked(family, device) for family in FAMILIES]}
        report |= {"ceilings": ceilings(device, 256 if options.tiny else 8192), "rows": [], "left_out": []}
        for name, model, batches in cases(options.shapes, device, options.tiny):
            for batch in batches:
                measured(name, model, batch, options.repeats, report)
    except StagevarError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    report = {**machine(model), "repeats": options.repeats, **report}
    print(json.dumps(report))
    if not options.tiny:
        append("gpu", options.device, report, options.out)


def cases(shapes: list[str], device: torch.device, small: bool) -> Iterator[tuple[str, ScaleModel, tuple[int, ...]]]:
    """The networks, one in memory at a time."""
    if small:
        for family in ("infinity", "var"):
            longer = {"text_length": WORDS} if family == "infinity" else {}
            model = tiny(family, **longer)
            yield f"tiny-{family}", random_model(family, model.config, model.name, model.defaults, device), (1, 2)
        return
    for name in shapes:
        family, batches = CASES[name]
        size = FAMILIES[family].sizes[name]
        yield name, random_model(family, size.config, name, size.defaults, device), batches
        torch.cuda.empty_cache()


def random_model(family: str, config: Any, name: str, defaults: Any, device: torch.device) -> ScaleModel:
    """A network with random weights, its blocks in bfloat16."""
    with torch.device("meta"):
        model: ScaleModel = FAMILIES[family].build(config, name, defaults)
    model.blocks.to(torch.bfloat16)
    randomize(model.to_empty(device=device), 0)
    if family != "var":
        model.text_encoder = noise_text(model, WORDS)
    return model.eval()


def prompts(model: ScaleModel, count: int) -> list[str]:
    return [str(i) if model.family == "var" else model.samples[i % len(model.samples)] for i in range(count)]


class Again:
    """Stands in for a graph where there is no CUDA: it computes once more."""

    def __init__(self, body: Callable[[], Scored]) -> None:
        self.body, self.result = body, body()

    def replay(self) -> None:
        again = self.body()
        self.result.hidden.copy_(again.hidden)
        self.result.logits.copy_(again.logits)


def graphs(device: torch.device) -> Graphs:
    def capture(body: Callable[[], Scored]) -> tuple[Graph, Scored]:
        again = Again(body)
        return again, again.result

    return Graphs(CudaCapture if device.type == "cuda" else lambda: capture)


def checked(family: str, device: torch.device) -> dict[str, Any]:
    """A small network against itself in float32 on the CPU, given the same codes, and graphs against the loop.

    Raises:
        NumericError: they differ.
    """
    exact = tiny(family)
    schedule = exact.schedule()
    plans, seeds = [Plan.uniform(len(schedule), guidance=2.0, top_k=1)] * 2, [0, 1]
    codes, wanted = dict[int, Tensor](), dict[int, Tensor]()

    def keep(found: dict[int, Tensor], kind: str) -> Callable[[str, int, Tensor], None]:
        return lambda name, k, tensor: found.update({k: tensor.clone()}) if name == kind else None

    def both(name: str, k: int, tensor: Tensor) -> None:
        keep(codes, "codes")(name, k, tensor)
        keep(wanted, "logits")(name, k, tensor)

    with computing():
        text = exact.encode_text(prompts(exact, 2))
        condition = exact.condition(text)
    for _ in run(exact, condition, schedule, plans, seeds, tap=both):
        pass
    row: dict[str, Any] = {"family": family}
    for dtype, most in APART.items():
        model, found = copy.deepcopy(exact), dict[int, Tensor]()
        model.blocks.to(dtype)
        model.to(device)
        with computing():
            condition = model.condition(text)
        given = {k: each.to(device) for k, each in codes.items()}
        for _ in run(model, condition, schedule, plans, seeds, tap=keep(found, "logits"), forced=given):
            pass
        apart = max(float((found[k].cpu() - wanted[k]).abs().mean() / wanted[k].std()) for k in wanted)
        name = str(dtype).removeprefix("torch.")
        row[f"{name}_apart"] = apart
        if not apart <= most:
            raise NumericError(f"{family} on {device} in {name}: logits are {apart:.2g} of their spread from float32")
    pipe = Pipeline(copy.deepcopy(exact).to(device))
    latents = []
    for pipe.graphs in (None, graphs(device)):
        drawn = [pipe(prompts(exact, 2), seed=seed, output_type="latent").images for seed in (0, 1, 1)]
        latents.append(torch.stack(drawn[-1]))
    row["graphs_equal"] = float(torch.isclose(latents[0], latents[1], atol=1e-2, rtol=1e-3).float().mean())
    if row["graphs_equal"] < EQUAL:
        raise NumericError(f"{family} on {device}: graphs draw {row['graphs_equal']:.3f} of a picture as the loop does")
    return row


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Time of one call, by device events on CUDA."""
    if device.type != "cuda":
        began = time.perf_counter()
        action()
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    action()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def spread(times: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def ceilings(device: torch.device, side: int) -> dict[str, float]:
    """Operations a second of a square bfloat16 product, and bytes a second read and written by a copy: the best of ten
    after a warm-up."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(side * side * 16, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = min([seconds(lambda: a @ b, device) for _ in range(12)][2:])
    copied = min([seconds(lambda: target.copy_(source), device) for _ in range(12)][2:])
    return {"operations_per_second": 2 * side**3 / product, "bytes_per_second": 2 * source.nbytes / copied}


def measured(name: str, model: ScaleModel, batch: int, repeats: int, report: dict[str, Any]) -> None:
    """Add a row for the twin, for the plain run without and with graphs, and for each accelerator."""
    plain: dict[str, Any] = {}
    ways = [("none", False), *((accelerator, True) for accelerator in known())]
    for accelerator, captured in ways:
        row: dict[str, Any] = {"shape": name, "batch": batch, "accelerator": accelerator, "graphs": captured}
        try:
            row |= timed(model, batch, accelerator, captured, repeats, report["ceilings"])
        except (StagevarError, torch.OutOfMemoryError) as error:
            report["left_out"].append(row | {"why": first_line(error)})
            continue
        plain = plain or row
        row["speedup"] = plain["seconds"]["median"] / row["seconds"]["median"]
        report["rows"].append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    if name in TWINS and plain and isinstance(model, VAR | Infinity):
        height, _ = model.picture_size(model.schedule())
        shape, twin = Shape(name, model, height, 3.0, 0.0), Twin(model, model.dtype)
        turns = [theirs(twin, shape, batch) for _ in range(repeats + 1)][1:]
        report.setdefault("twin", []).append(
            {
                "shape": name,
                "batch": batch,
                "seconds": spread([turn.whole for turn in turns]),
                "network_seconds": statistics.median(turn.network for turn in turns),
                "decoder_seconds": statistics.median(turn.decoder for turn in turns),
                "kv_bytes": twin.kv_bytes,
            }
        )


def timed(
    model: ScaleModel, batch: int, accelerator: str, captured: bool, repeats: int, limits: dict[str, float]
) -> dict[str, Any]:
    """Seconds of whole calls, text to pictures, and what the ceilings allow for their passes."""
    pipe = Pipeline(model, accelerator)
    pipe.graphs = graphs(model.device) if captured else None
    last: list[Any] = []

    def call() -> None:
        last[:] = [*pipe.events(requests, batch_size=batch, output_type="pt")][-1:]

    requests = [Request(prompt, seed=seed) for seed, prompt in enumerate(prompts(model, batch))]
    if on_cuda := model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    times = [seconds(call, model.device) for _ in range(repeats + 2)][2:]
    event = last[0]
    trace: Trace = event.result.trace
    work = list(passes(model, trace, event.plans))
    least = sum(max(f / limits["operations_per_second"], b / limits["bytes_per_second"]) for f, b in work)
    network = trace.network_milliseconds / 1e3
    return {
        "size": list(model.picture_size(model.schedule())),
        "dtype": str(model.dtype).removeprefix("torch."),
        "executed_scales": list(trace.executed(0)),
        "seconds": spread(times),
        "network_seconds": network,
        "decoder_seconds": trace.decode_milliseconds / 1e3,
        "flops": sum(f for f, _ in work),
        "bytes": sum(b for _, b in work),
        "roofline_seconds": least,
        "roofline_share": least / network,
        "peak_bytes": torch.cuda.max_memory_allocated(model.device) if on_cuda else None,
    }


def passes(model: ScaleModel, trace: Trace, plans: tuple[Plan, ...]) -> Iterator[tuple[int, int]]:
    """Operations, and bytes that have to be read or written at least, of each pass: the blocks' weights, and keys and
    values of the rows before it and of its own."""
    weights = sum(each.nbytes for each in model.blocks.parameters())
    counted = [plan_flops(model, model.schedule(), plan, WORDS) for plan in plans]
    for record in trace.records:
        if record.run != "skip":
            held = _cache_bytes(model, record) if record.run == "full" else 0
            yield sum(counted[image][record.scale].total for image in record.images), held and weights + held


def _cache_bytes(model: ScaleModel, record: ScaleRecord) -> int:
    rows = len(record.images) * (2 if record.branch == "both" else 1)
    position = 2 * model.depth * model.config.width * model.dtype.itemsize
    return position * (rows * record.cached + 2 * record.rows)


if __name__ == "__main__":
    main()
