"""Checkpoints: reading them without running their code, filling a network once, writing them."""

from __future__ import annotations

import ctypes
import json
import mmap
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stagevar.errors import ForeignCheckpointError, MissingFileError, OutputError, ShapeError, UnsafePickleError
from stagevar.files import replacing
from stagevar.models.hub import PICKLES, first_line, some

MADV_PAGEOUT = 21
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, memory-mapped where the format allows it.

    Args:
        path: a ``.safetensors`` file, a pickle written by ``torch.save``, a folder with one of them, or a folder
            of shards with its ``*.index.json``.

    Returns:
        Tensors by name; pickles may nest them (see ``unwrap``).

    Raises:
        MissingFileError, ForeignCheckpointError, UnsafePickleError
    """
    if path.is_dir():
        path = _main_file(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _read_pickle(path)
    raise ForeignCheckpointError(f"{path} is not a checkpoint; expected .safetensors or one of {', '.join(PICKLES)}")


def _main_file(folder: Path) -> Path:
    """The one file of a folder that stands for all its weights."""
    for pattern in ("*.safetensors.index.json", "*.index.json", WEIGHTS, "*.safetensors", *(f"*{p}" for p in PICKLES)):
        if len(found := sorted(folder.glob(pattern))) == 1:
            return found[0]
    raise MissingFileError(f"{folder} holds no weights, or several files of them; give the file itself")


def _read_shards(index: Path) -> dict[str, Any]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ForeignCheckpointError(f"{index} is not an index of shards; download it again") from None
    if strays := [name for name in names if Path(name).name != name]:
        raise ForeignCheckpointError(f"{index} points outside its folder ({strays[0]})")
    if missing := [name for name in names if not (index.parent / name).exists()]:
        raise MissingFileError(f"{index.parent} lacks {len(missing)} of {len(names)} shards: {some(missing)}")
    state: dict[str, Any] = {}
    for name in names:
        state |= read_state(index.parent / name)
    return state


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except PermissionError as error:
        raise MissingFileError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except (SafetensorError, OSError) as error:
        raise ForeignCheckpointError(f"{path} is truncated or no safetensors file ({first_line(error)})") from None


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickle protocols and storage classes of old files
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a broken pickle can raise anything
        if culprit := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UnsafePickleError(
                f"{path} would have to run code to load ({culprit[1]}); if you trust it, convert it to safetensors "
                "elsewhere and load that"
            ) from None
        raise ForeignCheckpointError(
            f"{path} is truncated or no checkpoint ({type(error).__name__}); download it again"
        ) from None
    if not isinstance(state, dict):
        raise ForeignCheckpointError(f"{path} holds a {type(state).__name__}, not tensors by name")
    return state


def unwrap(state: Mapping[str, Any], *keys: str) -> dict[str, Tensor]:
    """The tensors under a path of keys, each followed where present: ``unwrap(state, "trainer", "gpt_fsdp")``.

    What is no tensor there (step counters, settings) is dropped.
    """
    for key in keys:
        if isinstance(inner := state.get(key), Mapping):
            state = inner
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def renamed(key: str, names: Mapping[str, str]) -> str:
    """The key with its leading module path replaced, if ``names`` has it."""
    for old, new in names.items():
        if key == old or key.startswith(old + "."):
            return new + key[len(old) :]
    return key


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    rename: Callable[[str], str | None] | None = None,
    reshape: Callable[[str, Tensor], Tensor] | None = None,
    source: str | Path = "",
    dtype: torch.dtype | None = None,
) -> None:
    """Give a network, which may be on the meta device, the tensors of a checkpoint; then freeze it.

    Args:
        module: the network.
        state: tensors by the checkpoint's names.
        rename: the checkpoint's name to ours, or None to leave the tensor out.
        reshape: our name and the tensor to the tensor in our layout.
        source: named in errors.
        dtype: of the parameters of ``blocks``, at any depth; all others, and all buffers of real numbers, are float32.

    Raises:
        ForeignCheckpointError: tensors missing or left over.
        ShapeError: a tensor of another shape, or integers where real numbers belong.
    """
    expected = module.state_dict()
    found: dict[str, Tensor] = {}
    left_over: list[str] = []
    for theirs, tensor in state.items():
        ours = theirs if rename is None else rename(theirs)
        if ours is None:
            continue
        if ours not in expected or ours in found:
            left_over.append(theirs)
            continue
        found[ours] = _reshaped(reshape, ours, tensor)
    _check(module, expected, found, left_over, str(source) or "the checkpoint")
    compute = {name for name, _ in module.named_parameters(remove_duplicate=False) if ".blocks." in f".{name}"}
    for name, tensor in found.items():
        floating = expected[name].is_floating_point()
        target = (dtype or torch.float32) if name in compute else torch.float32
        found[name] = tensor.to(target if floating else expected[name].dtype)
        if found[name] is not tensor:
            _page_out(tensor)
    module.load_state_dict(found, assign=True)
    if empty := [name for name, t in chain(module.named_parameters(), module.named_buffers()) if t.is_meta]:
        raise ValueError(f"{some(empty)}: not part of any checkpoint, so it must be built outside the meta device")
    module.requires_grad_(False).eval()


def _page_out(tensor: Tensor) -> None:
    """Tell Linux that a tensor, which has been copied, is not needed soon: pages of a mapped file leave memory at once,
    so that a whole file and its copy in half precision never fill it together. The contents stay as they are."""
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    begin, end = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end:
        with suppress(OSError, AttributeError):  # a hint: where it cannot be given, nothing changes
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_PAGEOUT)


def _reshaped(reshape: Callable[[str, Tensor], Tensor] | None, name: str, tensor: Tensor) -> Tensor:
    if reshape is None:
        return tensor
    try:
        return reshape(name, tensor)
    except (RuntimeError, IndexError):  # it does not fit; the check of shapes says so with both shapes
        return tensor


def _check(
    module: nn.Module,
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    left_over: list[str],
    source: str,
) -> None:
    missing = [name for name in expected if name not in found]
    misfits = [
        f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not real numbers"
        for name, tensor in found.items()
        if expected[name].is_floating_point() and not tensor.is_floating_point()
    ] + [
        f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in found.items()
        if tensor.shape != expected[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(expected)} tensors missing ({some(missing)})")
    if left_over:
        problems.append(f"{len(left_over)} left over ({some(left_over)})")
    if misfits:
        problems.append(f"{len(misfits)} of another shape or kind ({some(misfits)})")
    if problems:
        kind = ForeignCheckpointError if missing or left_over else ShapeError
        raise kind(f"{source} does not fit {type(module).__name__}: {', '.join(problems)}; check model and size")


def save(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors``, both or neither.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(folder / CONFIG) as config_file, replacing(folder / WEIGHTS) as weights_file:
        config_file.write_text(json.dumps(config, indent=2) + "\n")
        try:
            save_file(tensors, weights_file)
        except SafetensorError as error:
            raise OutputError(f"cannot write {folder / WEIGHTS}: {first_line(error)}; free some space") from error
        weights_file.chmod(config_file.stat().st_mode)  # safetensors lets none but the owner read


def load_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder that ``save`` wrote.

    Raises:
        MissingFileError, ForeignCheckpointError
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except OSError:
        raise MissingFileError(f"{folder} has no {CONFIG} that can be read, so it is not a folder of a model") from None
    except (ValueError, RecursionError) as error:
        raise ForeignCheckpointError(f"{path} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ForeignCheckpointError(f"{path} holds a {type(config).__name__}, not settings by name")
    return config
