"""Checkpoints: reading them without running their code, filling a network once, writing them."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stagevar.errors import (
    ForeignCheckpointError,
    MissingFileError,
    UnsafePickleError,
    first_line,
    some,
)
from stagevar.families.family import CONFIG, WEIGHTS
from stagevar.loading.hub import PICKLES


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
