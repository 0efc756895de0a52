"""Predicted and measured memory of random models of every family: ``python benchmarks/memory.py``.

Each run is a process of its own. Measured is how much its resident set grows at most while it draws, from a state in
which everything has been used once; predicted is ``stagevar.memory.predict``. With ``--whole`` it is the most that an
ordinary process holds, from Python's start to its pictures, against what ``stagevar doctor`` says. Appends to
``results/memory.jsonl`` or ``whole.jsonl``, in bytes. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from store import RESULTS, append

from stagevar.engine.contract.model import ScaleModel
from stagevar.families.stand_ins import noise_text
from stagevar.families.tiny import tiny
from stagevar.families.tokenizers.vq import VQConfig
from stagevar.families.vq_model import squares
from stagevar.loading.save import save_model
from stagevar.machine import machine
from stagevar.memory.limit import needed
from stagevar.memory.predict import run_bytes
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PLAIN_HEAP = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Freed memory goes back at once, so that the resident set follows what is alive."""

STATUS = Path("/proc/self/status")
TOKENS = 8
VQ = VQConfig(base=64, multipliers=(1, 1, 2, 2, 4), residual_blocks=2, channels=32, codes=4096)
GRIDS: dict[str, Any] = {"schedules": (squares(1, 2, 4, 8, 16, 24),), "tokenizer": VQ}
MIDDLE: dict[str, dict[str, Any]] = {
    "scenes": {"width": 256, "depth": 8, "heads": 4, "grids": (1, 2, 4, 8, 16, 32), "codes": (512,) * 6},
    "infinity": {"width": 512, "depth": 8, "heads": 8, "chunks": 4, "text_channels": 512},
    "var": {"width": 512, "depth": 8, "heads": 8, **GRIDS},
    "star": {"width": 512, "depth": 8, "heads": 8, "text_channels": 256, **GRIDS},
    "switti": {"width": 512, "depth": 8, "heads": 8, "text_channels": 256, **GRIDS},
    "hart": {"width": 512, "depth": 8, "heads": 8, "text_channels": 256, **GRIDS},
}


def resident(name: str) -> int:
    """A figure of the kernel's about this process, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def measure(family: str, batch: int, dtype: torch.dtype, threads: int) -> dict[str, int]:
    """Growth of this process, and what was predicted."""
    torch.set_num_threads(threads)
    model = middle(family, dtype)
    pipe, schedule = Pipeline(model), model.schedule()
    prompt = ["3" if family == "var" else "a red circle"]
    pipe(prompt * batch, seed=0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = resident("VmRSS")
    pipe(prompt * batch, seed=0, output_type="pt")
    grown = resident("VmHWM") - before
    found = run_bytes(model, schedule, pipe.prepare(Request("any")).plan, batch, dtype=dtype, text_length=TOKENS)
    parts = {"loop": max(scale.peak for scale in found.scales), "decoder": found.decoder, "weights": found.weights}
    return {"measured": grown, "predicted": found.peak, **parts}


def whole(family: str, batch: int, dtype: torch.dtype, threads: int) -> dict[str, int]:
    """The most that this process has held in an ordinary heap, from Python's start to the pictures of a model that was
    loaded from a folder, and what doctor says."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--one", f"{family}:1", "--save", folder], check=True)
        pipe = Pipeline.from_pretrained(folder, dtype=dtype)
        if family != "var" and family != "scenes":
            pipe.model.text_encoder = noise_text(pipe.model, TOKENS)
        pipe(["3" if family == "var" else "a red circle"] * batch, seed=0)
    most = resident("VmHWM")
    plan = pipe.prepare(Request("any")).plan
    found = run_bytes(pipe.model, pipe.model.schedule(), plan, batch, dtype=dtype, text_length=TOKENS)
    return {"measured": most, "predicted": needed(found, 0, offload=False), "weights": found.weights, "run": found.peak}


def middle(family: str, dtype: torch.dtype) -> ScaleModel:
    """A random model in the layout that loading gives it, with prompts of some tokens."""
    model = tiny(family, **MIDDLE[family])
    model.blocks.to(dtype)
    decoder = getattr(model.tokenizer, "decoder", None)
    if isinstance(decoder, torch.nn.Module):
        decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if model.text_encoder is not None:
        model.text_encoder = noise_text(model, TOKENS)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", default=",".join(MIDDLE))
    parser.add_argument("--batches", default="1,2,4")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--json", action="store_true", help="print each row as a line of JSON, in bytes, and keep nothing"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--whole", action="store_true", help="whole processes with an ordinary heap, not their growth")
    parser.add_argument("--save", type=Path, help="write the model of --one there, and measure nothing")
    parser.add_argument("--one", help="family and batch to measure in this process, such as var:2")
    options = parser.parse_args()
    if options.one:
        family, batch = options.one.split(":")
        if options.save:
            save_model(middle(family, torch.float32), options.save)
            return
        work = whole if options.whole else measure
        print(json.dumps(work(family, int(batch), getattr(torch, options.dtype), options.threads)))
        return
    rows = []
    for family in options.families.split(","):
        for batch in options.batches.split(","):
            own = [sys.executable, __file__, "--one", f"{family}:{batch}", "--dtype", options.dtype]
            own += ["--threads", str(options.threads), *(["--whole"] if options.whole else [])]
            heap = None if options.whole else PLAIN_HEAP
            row = json.loads(subprocess.run(own, env=heap, stdout=subprocess.PIPE, check=True).stdout)
            rows.append({"family": family, "batch": int(batch), **row})
            if options.json:
                print(json.dumps(rows[-1]), flush=True)
                continue
            figures = "  ".join(f"{name} {value / 2**20:8.1f}" for name, value in row.items())
            print(f"{family:>9} {batch:>3}  {figures} MiB  {row['predicted'] / row['measured'] - 1:+.1%}", flush=True)
    if options.json:
        return
    torch.set_num_threads(options.threads)
    report = {**machine(tiny("scenes")), "dtype": options.dtype, "rows": rows}
    append("whole" if options.whole else "memory", "cpu", report, options.out)


if __name__ == "__main__":
    main()
