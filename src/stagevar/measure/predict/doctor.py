"""What a model needs before it is loaded: downloads, licence, disk and memory, and whether this machine has it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stagevar.loading.hub import choose, free_space, is_cached, listing
from stagevar.loading.sources import Source, outline
from stagevar.measure.predict.memory import RunBytes, run_bytes
from stagevar.pipeline import Pipeline
from stagevar.quiet import errors_only
from stagevar.request import Request

INTERPRETER = 385 * 2**20
"""Python and PyTorch themselves, about."""


@dataclass(frozen=True, slots=True)
class FileNeed:
    """A file of a model.

    Attributes:
        source: folder or hub repository; ``name`` is the path in it.
        size: in bytes, None if neither the hub nor the cache was there to tell.
        here: whether it is on this machine.
    """

    source: str
    name: str
    size: int | None
    here: bool


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What drawing a batch takes, in bytes, and what there is.

    Attributes:
        model, licence: as the table of models or the hub has them.
        size: height and width in pixels; ``batch`` pictures at once, blocks in ``dtype`` on ``device``.
        files: of network, tokenizer and text encoders.
        disk: free where downloads go.
        run: weights, and memory by scale.
        text_encoder: its weights; ``offloaded`` if they wait elsewhere.
        memory: free on the device.
    """

    model: str
    licence: str
    size: tuple[int, int]
    batch: int
    dtype: str
    device: str
    files: tuple[FileNeed, ...]
    disk: int
    run: RunBytes
    text_encoder: int
    offloaded: bool
    memory: int

    @property
    def download(self) -> int:
        """Bytes that are known to be fetched."""
        return sum(file.size or 0 for file in self.files if not file.here)

    @property
    def need(self) -> int:
        """All memory on the device."""
        text = 0 if self.offloaded else self.text_encoder
        return self.run.weights + text + self.run.peak + INTERPRETER

    @property
    def fits(self) -> bool:
        return self.need <= self.memory and self.download <= self.disk


def diagnose(
    meant: Source,
    request: Request,
    batch: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    offload_text_encoder: bool = False,
) -> Diagnosis:
    """Ask the hub for sizes, the machine for space, and the model's shapes for the rest.

    Args:
        meant: as ``sources.resolve`` found it.
        request: its size, guidance and accelerator; the prompt does not matter.
        batch: pictures at once.
        dtype: of blocks and text encoders.
        device: where the model is to run.
        offload_text_encoder: as in ``Pipeline.from_pretrained``.

    Raises:
        SizeError, OptionError, ForeignCheckpointError
    """
    model = outline(meant)
    pipe = Pipeline(model)
    prepared = pipe.prepare(request)
    files, stated = _files(meant)
    row = meant.size or meant.family.sizes.get(meant.name)
    counts = meant.family.text_parameters if meant.text else ()
    return Diagnosis(
        model=model.name,
        licence=stated or (row.licence if row else "") or "not stated",
        size=prepared.size,
        batch=batch,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        files=tuple(files),
        disk=_free_disk(),
        run=run_bytes(model, prepared.schedule, prepared.plan, batch, dtype=dtype),
        text_encoder=sum(counts) * dtype.itemsize,
        offloaded=offload_text_encoder and device.type != "cpu",
        memory=free_memory(device),
    )


def _files(meant: Source) -> tuple[list[FileNeed], str]:
    """The files of a model, and the licence that the network's repository states."""
    files: list[FileNeed] = []
    licence = ""
    for number, (source, file, options) in enumerate(meant.places()):
        if isinstance(source, Path):
            files += _local(source, file)
            continue
        found, stated = _remote(source, file, options)
        files += found
        licence = licence or (stated if number == 0 else "")
    return files, licence


def _local(folder: Path, file: str) -> list[FileNeed]:
    path = folder / file
    names = choose([each.name for each in path.iterdir()], "") if path.is_dir() else [""]
    found = [path / name if name else path for name in names]
    return [
        FileNeed(str(folder), each.relative_to(folder).as_posix(), each.stat().st_size if each.exists() else None, True)
        for each in found
    ]


def _remote(repository: str, file: str, options: dict[str, Any]) -> tuple[list[FileNeed], str]:
    """What of a repository is needed, as the hub or else the cache has it; sizes are unknown if neither does."""
    try:
        with errors_only("huggingface_hub"):
            found = listing(repository, **options)
    except Exception:  # whatever keeps the hub's client from answering, loading will tell
        return [FileNeed(repository, file or "*", None, here=False)], ""
    chosen = choose(found.files, file)
    revision = options["revision"]
    return [
        FileNeed(repository, name, found.files[name].size, is_cached(repository, name, revision)) for name in chosen
    ] or [FileNeed(repository, file or "*", None, here=False)], found.licence


def _free_disk() -> int:
    """Where the hub's client keeps its files."""
    from huggingface_hub import constants

    return free_space(Path(constants.HF_HUB_CACHE))[1]


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; on the CPU within the limits of a container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = [1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])]
    with suppress(OSError, ValueError):  # "max" if there is no limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free.append(limit - used)
    return min(free)
