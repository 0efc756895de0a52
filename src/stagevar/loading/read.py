"""Reading checkpoints of every form, memory-mapped where the format allows it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from stagevar.errors import ForeignCheckpointError, MissingFileError, first_line, some
from stagevar.families.family import CONFIG
from stagevar.loading.hub import weights_of
from stagevar.loading.pickles import read_pickle
from stagevar.untrusted import PICKLES, read_settings, shard_names, stands_for


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, memory-mapped where the format allows it.

    Args:
        path: a ``.safetensors`` file, a pickle written by ``torch.save``, a folder with one of them, or a folder
            of shards with its ``*.index.json``.

    Returns:
        Tensors by name; pickles may nest them (see ``nesting``).

    Raises:
        MissingFileError: there is no such file, or a shard is missing.
        ForeignCheckpointError: it is no checkpoint, or a damaged one.
        UnsafePickleError: it would have to run code.
    """
    if path.is_dir():
        path = _main_file(path)
    require_weights(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return read_pickle(path)
    raise ForeignCheckpointError(f"{path} is not a checkpoint; expected .safetensors or one of {', '.join(PICKLES)}")


def require_weights(path: Path) -> None:
    """Raise if a file is not there, or by its first bytes holds no weights.

    Raises:
        MissingFileError, ForeignCheckpointError
    """
    if not path.is_file():
        raise MissingFileError(f"{path} {'is no regular file' if path.exists() else 'does not exist'}")
    if what := stands_for(path):
        raise ForeignCheckpointError(f"{path} is truncated or no checkpoint: it holds {what}")


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
    state: dict[str, Any] = {}
    for name in shard_names(index):
        shard = read_state(index.parent / name)
        if twice := sorted(shard.keys() & state.keys()):
            raise ForeignCheckpointError(
                f"{index.parent / name} holds {some(twice)}, as another shard does; download all shards of one "
                "revision again"
            )
        state |= shard
    return state


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        _prefetch(path)
        return dict(load_file(path))
    except PermissionError as error:
        raise MissingFileError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except (SafetensorError, OSError) as error:
        raise ForeignCheckpointError(f"{path} is truncated or no safetensors file ({first_line(error)})") from None


def _prefetch(path: Path) -> None:
    """Ask the system to read a file from the disk in one go, ahead of those who touch its pages here and there."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def load_config(folder: Path, *, once: bool = False) -> dict[str, Any]:
    """The settings in the ``config.json`` of a folder.

    Args:
        once: as in ``untrusted.read_json``.

    Raises:
        as ``untrusted.read_settings``.
    """
    return read_settings(folder / CONFIG, once=once)
