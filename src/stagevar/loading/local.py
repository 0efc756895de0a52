"""Find out which model's files a user's folder or file holds."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

from stagevar.errors import MissingFileError, OptionError, UnknownModelError, quoted
from stagevar.families.catalogue import published
from stagevar.families.family import CONFIG, File, Size
from stagevar.loading.hub import last_part, weights_of
from stagevar.loading.read import load_config, read_state
from stagevar.loading.recognise import recognise
from stagevar.loading.where import Where


def existing(text: str) -> tuple[Path, str] | None:
    """The file or folder that a text names, and the key of a text FILE#KEY ("" without); None if nothing is there."""
    file, _, key = text.rpartition("#")
    for path, inside in ((text, ""), (file, key)):
        expanded = os.path.expanduser(path)  # noqa: PTH111 - unlike Path, never raises
        if path and os.path.exists(expanded):  # noqa: PTH110
            return Path(expanded), inside
    return None


def is_own(folder: Path) -> bool:
    """Whether a folder holds a model that this package wrote, as its config says.

    Raises:
        MissingFileError, ForeignCheckpointError: its config cannot be read.
    """
    return (folder / CONFIG).exists() and "family" in load_config(folder)


def at(weights: str | Path, size: Size, where: Where) -> Where:
    """Where to look for a model's files, if a user gives a folder of them or the network's file.

    Args:
        weights: the folder or the file; FILE#KEY names the key of the network in it.
        size: the model's row.
        where: revision, token and whether to stay offline.

    Raises:
        MissingFileError: neither is there; the hub is not asked instead.
        UnknownModelError: the folder holds several files that may be the network's.
        OptionError: the folder is a model of ours, or has a key.
    """
    found = existing(str(weights))
    if found is None:
        raise MissingFileError(f"there is no folder or file of weights {quoted(str(weights))}; check the path")
    path, key = found
    if is_own(path):
        raise OptionError(f"{path} is a model of its own; give it as the model, without weights")
    if key and path.is_dir():
        raise OptionError(f"a folder has no key {quoted(key)}; only a file is given as FILE#KEY")
    network = size.files[0]
    if path.is_file():
        return replace(where, folder=path.parent, network=path, key=key)
    if network.repository and (_holds(path, network.path) or (path / last_part(network.repository)).is_dir()):
        return replace(where, folder=path)
    own = path if path.name == _folder_of(network) else _network_in(path, size)
    return replace(where, folder=_base(path, size), network=own)


def _base(folder: Path, size: Size) -> Path:
    """The folder with those of a model's other repositories: the network's own, or the one that it lies in."""
    above = folder.resolve().parent
    return above if not _others_in(folder, size) and _others_in(above, size) else folder


def _others_in(folder: Path, size: Size) -> bool:
    """Whether files of a model's other repositories lie in folders of the repositories' names."""
    files = [(file.repository, file.path) for file in size.files[1:]] + [(name, "") for name in size.text]
    places = [(folder / last_part(repository), file) for repository, file in files]
    return any(_holds(place, file) if file else place.is_dir() for place, file in places)


def _folder_of(file: File) -> str:
    """The name of the folder that a published file is, "" if it is none."""
    if file.path.endswith("/"):
        return PurePosixPath(file.path).name
    return last_part(file.repository) if file.repository and not file.path else ""


def _holds(folder: Path, file: str) -> bool:
    """Whether a folder has a published file, or its safetensors twin."""
    path = folder / file
    return bool(file) and (path.exists() or path.with_suffix(".safetensors").exists())


def _network_in(folder: Path, size: Size) -> Path | None:
    """The weights that lie in a folder under a name of their own, the tokenizer's aside; None if there are none."""
    others = {PurePosixPath(file.path).stem for file in size.files[1:]}
    names = [path.name for path in folder.iterdir() if path.is_file()]
    weights = weights_of(name for name in names if PurePosixPath(name).stem not in others)
    if not weights:
        return None
    if any(name.endswith(".index.json") for name in names):
        return folder
    if len(weights) > 1:
        raise UnknownModelError(f"{folder} holds {' and '.join(weights[:3])}; give the network's file itself")
    return folder / weights[0]


def of_folder(folder: Path) -> list[str]:
    """The models whose published files a folder has: by the files' names, by its own, or by the tensors in it."""
    rows = [(name, size.files[0]) for name, size in published()]
    if found := [name for name, file in rows if _holds(folder, file.path)]:
        return found
    if found := [name for name, file in rows if folder.name and folder.name.lower() == _folder_of(file).lower()]:
        return found
    weights = weights_of(path.name for path in folder.iterdir() if path.is_file())
    return recognise(read_state(folder), folder) if weights else []


def of_file(path: Path) -> list[str]:
    """The models whose network a file is: by its name, else by its tensors."""
    named = [name for name, size in published() if PurePosixPath(size.files[0].path).stem == path.stem]
    return named or recognise(read_state(path), path)
