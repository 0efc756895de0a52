"""What a model needs before it is loaded (downloads, licence, disk, memory), and what this machine has of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from stagevar.errors import MissingExtraError, OptionError, some
from stagevar.families.family import Size
from stagevar.loading.hub import choose, free_space, is_cached, listing
from stagevar.loading.place import gains_by_bfloat16
from stagevar.loading.source import Source
from stagevar.loading.sources import outline
from stagevar.memory.limit import INTERPRETER, Held, fitted, needed, text_bytes
from stagevar.memory.predict import RunBytes, run_bytes
from stagevar.pipeline import Pipeline
from stagevar.quiet import errors_only
from stagevar.request import Request
from stagevar.threads import waiting
from stagevar.untrusted import PICKLES, stands_for

TEXT_PACKAGES = ("transformers", "sentencepiece")

State = Literal["here", "to download", "missing", "damaged", "unknown"]


@dataclass(frozen=True, slots=True)
class FileNeed:
    """A file of a model.

    Attributes:
        source: folder or hub repository.
        name: path of the file in it.
        size: in bytes; None if neither the hub nor the cache could tell.
        state: where the file is; ``unknown`` if neither could be asked.
    """

    source: str
    name: str
    size: int | None
    state: State


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What drawing a batch takes, in bytes, and what there is.

    Attributes:
        model: name of the model.
        licence: of its weights, as the hub states it, else as the catalogue does.
        size: height and width of the pictures in pixels.
        batch: pictures at once.
        dtype, device: dtype of the blocks, and where they run.
        quantize: what the weights of the blocks' linear layers are rounded to; "" if they are not.
        files: files of network, tokenizer and text encoders.
        disk: free bytes where downloads go.
        run: weights, and memory by scale.
        text_encoder: bytes of its weights.
        offloaded: whether these wait on the CPU between prompts.
        memory: free bytes on the device.
        obstacles: what is missing besides files: published weights, a package.
        remarks: what a user should know.
        threads: how many compute on the CPU, and how they wait.
        interpreter: bytes that Python and PyTorch themselves take.
        fit: what was chosen to stay within a limit of memory; "" without one. ``batch`` and ``offloaded`` follow it.
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
    obstacles: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    threads: str = ""
    interpreter: int = INTERPRETER
    quantize: str = ""
    fit: str = ""

    @property
    def download(self) -> int:
        """Bytes to download, as far as sizes are known."""
        return sum(file.size or 0 for file in self.files if file.state == "to download")

    @property
    def need(self) -> int:
        """Bytes of memory that drawing needs on the device."""
        return needed(self.run, self.text_encoder, offload=self.offloaded)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Everything that keeps the model from being loaded and drawn here, or that could not be found out."""
        found = list(self.obstacles)
        for state in ("missing", "damaged", "unknown"):
            if names := [f"{file.name} of {file.source}" for file in self.files if file.state == state]:
                found.append(f"{state}: {some(names)}")
        if unsized := [file.name for file in self.files if file.size is None and file.state == "to download"]:
            found.append(f"of unknown size: {some(unsized)}")
        if self.download > self.disk:
            found.append("there is not enough disk space")
        if self.need > self.memory:
            found.append("there is not enough memory; ask for fewer pictures, a smaller size or another dtype")
        return tuple(found)

    @property
    def ready(self) -> bool:
        return not self.troubles


def diagnose(
    meant: Source,
    request: Request,
    batch: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    offload_text_encoder: bool = False,
    quantize: str = "",
    max_memory: int | None = None,
) -> Diagnosis:
    """Find out what drawing a batch takes: from the hub's sizes, the machine's space and the model's shapes.

    Args:
        meant: as ``sources.resolve`` found it.
        request: its size, guidance and accelerator; the prompt does not matter.
        batch: pictures at once.
        dtype: of blocks and text encoders.
        device: where the model is to run.
        offload_text_encoder, quantize, max_memory: as in ``Pipeline.from_pretrained``.

    Raises:
        SizeError, OptionError, ForeignCheckpointError
    """
    model = outline(meant)
    pipe = Pipeline(model)
    prepared = pipe.prepare(request)
    files, stated = _files(meant)
    row = meant.size or meant.family.sizes.get(meant.name)
    text, movable = text_bytes(meant, dtype), device.type != "cpu" and bool(meant.text)
    held = Held(dtype, quantize, text, movable, movable and offload_text_encoder)
    offloaded, needs, said, obstacles = held.offloaded, None, "", list(_obstacles(meant))
    if max_memory is not None:
        try:
            fit = fitted(model, prepared.schedule, prepared.plan, batch, max_memory, held)
            batch, offloaded, needs, said = fit.batch, fit.offload, fit.run, str(fit)
        except OptionError as error:
            obstacles.append(str(error))
    return Diagnosis(
        model=model.name,
        licence=stated or (row.licence if row else "") or "not stated",
        size=prepared.size,
        batch=batch,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        files=tuple(files),
        disk=_free_disk(),
        run=needs or run_bytes(model, prepared.schedule, prepared.plan, batch, dtype=dtype, quantize=quantize),
        text_encoder=text,
        offloaded=offloaded,
        memory=free_memory(device),
        obstacles=tuple(obstacles),
        remarks=tuple(_remarks(row, prepared.size, dtype, device)),
        quantize=quantize,
        fit=said,
        threads=f"{torch.get_num_threads()} on the CPU; {waiting()}",
    )


def _obstacles(meant: Source) -> Iterator[str]:
    """What keeps a model from being loaded, its files aside."""
    if meant.size is not None and not meant.size.published and meant.where.network is None:
        yield "no weights of this model are published; give your own network's file with --weights"
    if meant.text and meant.family.text is not None:
        yield from (str(MissingExtraError(name, "text")) for name in TEXT_PACKAGES if find_spec(name) is None)


def _remarks(row: Size | None, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Iterator[str]:
    if row is not None and row.note:
        yield row.note
    pixels = size[0] * size[1]
    if row is not None and row.pixels is not None and not row.pixels[0] <= pixels <= row.pixels[1]:
        yield (
            f"its authors trained it for {row.pixels[0] / 1e6:.2g} to {row.pixels[1] / 1e6:.2g} million pixels, "
            f"not for {pixels / 1e6:.2g}"
        )
    if dtype == torch.float32 and gains_by_bfloat16(device):
        yield "this CPU multiplies bfloat16 several times as fast as float32; --dtype bfloat16 draws other details"


def _files(meant: Source) -> tuple[list[FileNeed], str]:
    """The files of a model, and the licence that the network's repository states."""
    files: list[FileNeed] = []
    licence = ""
    for number, (source, file, options) in enumerate(meant.places()):
        if isinstance(source, Path):
            files += _local(source, file)
        elif source:
            found, stated = _remote(source, file, options)
            files += found
            licence = licence or (stated if number == 0 else "")
    return files, licence


def _local(folder: Path, file: str) -> list[FileNeed]:
    path = folder / file
    twin = path.with_suffix(".safetensors")
    if path.suffix in PICKLES and twin.is_file():
        path = twin
    names = choose([each.name for each in path.iterdir()], "") if path.is_dir() else [""] if path.is_file() else []
    if not names:
        return [FileNeed(str(folder), file or "*", None, "missing")]
    return [_local_file(folder, path / name if name else path) for name in names]


def _local_file(folder: Path, path: Path) -> FileNeed:
    try:
        size, damaged = path.stat().st_size, bool(stands_for(path))
    except OSError:
        return FileNeed(str(folder), path.name, None, "unknown")
    return FileNeed(str(folder), path.relative_to(folder).as_posix(), size, "damaged" if damaged else "here")


def _remote(repository: str, file: str, options: dict[str, Any]) -> tuple[list[FileNeed], str]:
    """What of a repository is needed, as the hub or else the cache has it; unknown if neither can be asked."""
    try:
        with errors_only("huggingface_hub"):
            found = listing(repository, **options)
    except Exception:  # whatever keeps the hub's client from answering
        return [FileNeed(repository, file or "*", None, "unknown")], ""
    chosen = choose(found.files, file)
    if not chosen:
        return [FileNeed(repository, file or "*", None, "missing")], found.licence
    revision = options["revision"]
    return [
        FileNeed(
            repository, name, found.files[name].size, "here" if is_cached(repository, name, revision) else "to download"
        )
        for name in chosen
    ], found.licence


def _free_disk() -> int:
    """Bytes free where the hub's client keeps its files."""
    from huggingface_hub import constants

    return free_space(Path(constants.HF_HUB_CACHE))[1]


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; on the CPU no more than a container's limit leaves."""
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
