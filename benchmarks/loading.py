"""How long a large checkpoint takes until it is usable: ``python benchmarks/loading.py``.

Writes a folder with the random weights of a large model. For each setting reads the file once from its beginning to its
end, and starts a process that loads the model. Before each the file is dropped from the page cache (``posix_fadvise``),
without which a second reading would measure memory. Usable means that all weights are in the layout that the first
picture needs. Appends to ``results/loading.jsonl``. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from store import RESULTS, append

from stagevar.engine.contract.model import ScaleModel
from stagevar.families.catalogue import bare
from stagevar.families.family import CONFIG, WEIGHTS
from stagevar.families.linear import pack
from stagevar.loading.place import in_blocks
from stagevar.machine import machine
from stagevar.pipeline import Pipeline

MODEL = "infinity-2b"
SETTINGS: tuple[tuple[str, str | None], ...] = (("bfloat16", None), ("float32", None), ("bfloat16", "int8"))
"""Dtype and rounding that a checkpoint in bfloat16 is loaded with."""

CHUNK = 2**24


def write(folder: Path, name: str) -> int:
    """A model of the table with random blocks in bfloat16, all else float32, as ``convert`` writes it; its bytes."""

    model = bare(name)
    config = {"family": model.family, "name": name, "config": asdict(model.config), "defaults": asdict(model.defaults)}
    noise = (torch.rand(2**22) - 0.5) / 20
    state = {}
    for key, tensor in model.state_dict().items():
        kind = torch.bfloat16 if in_blocks(key) and tensor.is_floating_point() else tensor.dtype
        values = torch.zeros(tensor.shape, dtype=kind)
        flat = values.view(-1)
        for start in range(0, flat.numel(), noise.numel()):
            part = flat[start : start + noise.numel()]
            part.copy_(noise[: part.numel()])
        state[key] = values
    save_file(state, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config | {"files": [CONFIG, WEIGHTS]}), encoding="utf-8")
    return (folder / WEIGHTS).stat().st_size


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path) -> float:
    """Seconds of reading a file once."""
    began, buffer = time.perf_counter(), bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - began


def load(folder: Path, dtype: str, quantize: str | None) -> dict[str, float]:
    """Seconds until the model is there, and until its weights are laid out."""
    began = time.perf_counter()
    pipe = Pipeline.from_pretrained(folder, dtype=dtype, quantize=quantize, device="cpu", text_encoder=False)
    loaded = time.perf_counter() - began
    pack(pipe.model)
    touch(pipe.model)
    usable = time.perf_counter() - began
    status = Path("/proc/self/status").read_text().splitlines()
    most = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"loaded_seconds": loaded, "usable_seconds": usable, "resident": 1024 * most}


def touch(model: ScaleModel) -> None:
    """Read a number of every page of the weights, which are mapped from the file where nothing had to be converted."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_contiguous():
            tensor.reshape(-1).view(torch.uint8)[:: os.sysconf("SC_PAGE_SIZE")].sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "DTYPE", "QUANTIZE"), help="load in this process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        folder, dtype, quantize = options.one
        print(json.dumps(load(Path(folder), dtype, None if quantize == "none" else quantize)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        size, path = write(folder, options.model), folder / WEIGHTS
        for dtype, quantize in SETTINGS:
            command = [sys.executable, __file__, "--threads", str(options.threads), "--one", name, dtype]
            reads, loads = [], []
            for _ in range(options.repeats):
                forget(path)
                reads.append(read(path))
                forget(path)
                done = subprocess.run([*command, quantize or "none"], stdout=subprocess.PIPE, check=True)
                loads.append(json.loads(done.stdout))
            found = {key: median(each[key] for each in loads) for key in loads[0]}
            rows.append({"dtype": dtype, "quantize": quantize, "read_seconds": median(reads), **found})
            print(rows[-1], flush=True)
    about = {**machine(bare("scenes")), "model": options.model, "bytes": size, "repeats": options.repeats}
    append("loading", "cpu", {**about, "rows": rows}, options.out)


if __name__ == "__main__":
    main()
