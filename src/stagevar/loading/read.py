"""Reading checkpoints of every form, memory-mapped where the format allows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from stagevar.errors import (
    ForeignCheckpointError,
    MissingFileError,
    first_line,
    some,
)
from stagevar.families.family import CONFIG
from stagevar.files import one_name
from stagevar.loading.hub import PICKLES, weights_of
from stagevar.loading.pickles import read_pickle


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, memory-mapped where the format allows it.

    Args:
        path: a ``.safetensors`` file, a pickle written by ``torch.save``, a folder with one of them, or a folder
            of shards with its ``*.index.json``.

    Returns:
        Tensors by name; pickles may nest them (see ``nesting``).

    Raises:
        MissingFileError, ForeignCheckpointError, UnsafePickleError
    """
    if path.is_dir():
        path = _main_file(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    if what := foreign_contents(path):
        raise ForeignCheckpointError(f"{path} is truncated or no checkpoint: it holds {what}; download the file itself")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return read_pickle(path)
    raise ForeignCheckpointError(f"{path} is not a checkpoint; expected .safetensors or one of {', '.join(PICKLES)}")


def _main_file(folder: Path) -> Path:
    """The one file of a folder that stands for all its weights: the index of shards, or the weights themselves."""
    weights = weights_of(path.name for path in folder.iterdir())
    index = weights_of(path.name.removesuffix(".index.json") for path in folder.glob("*.index.json"))
    if len(index) == 1:
        return folder / f"{index[0]}.index.json"
    if len(weights) != 1:
        held = some(weights) if weights else "none"
        raise MissingFileError(f"{folder} should hold one file of weights and holds {held}; give the file itself")
    return folder / weights[0]


def _read_shards(index: Path) -> dict[str, Any]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ForeignCheckpointError(f"{index} is not an index of shards; download it again") from None
    if strays := [name for name in names if not one_name(name)]:
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


def foreign_contents(path: Path) -> str:
    """What a file holds in place of weights, "" if nothing of the kind is seen in its first bytes."""
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if not start:
        return "nothing"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer"
    return "a web page" if start.startswith((b"<!doctype", b"<html", b"<?xml")) else ""
