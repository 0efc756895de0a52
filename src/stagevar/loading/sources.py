"""What a name, path or repository means, and the model behind it."""

from __future__ import annotations

import re
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.computing import usual
from stagevar.errors import (
    CheckpointError,
    ForeignCheckpointError,
    MissingFileError,
    OptionError,
    ShapeError,
    UnknownModelError,
    quoted,
    some,
)
from stagevar.families.catalogue import FAMILIES, bare, find, names, published
from stagevar.families.family import CONFIG, WEIGHTS, Family, with_encoder, without_encoder
from stagevar.loading.available import check
from stagevar.loading.download import locate
from stagevar.loading.folder import family_of, folder_skeleton, load_folder
from stagevar.loading.local import at, existing, is_own, of_file, of_folder
from stagevar.loading.place import Placement
from stagevar.loading.published import load_published
from stagevar.loading.read import read_state
from stagevar.loading.recognise import recognise
from stagevar.loading.source import Source
from stagevar.loading.where import Where


def resolve(source: str | Path, weights: str | Path | None = None, where: Where | None = None) -> Source:
    """Find out what a user means. Nothing is downloaded but the config of a folder of ours on the hub.

    Args:
        source: a name of the catalogue; a folder that ``save.save_model`` wrote, here or as a hub repository; a hub
            repository of the table or a file of one; or a local file that holds a model's network.
        weights: folder with a named model's published files, or its network's file, instead of the hub.
        where: revision, token and whether to stay offline.

    Raises:
        UnknownModelError, OptionError, MissingFileError, ForeignCheckpointError
    """
    name, where = str(source), where or Where()
    found = find(name)
    if found is not None and not found[1].shipped:
        return _of_table(name, where if weights is None else at(weights, found[1], where))
    if weights is not None:
        listed = ", ".join(name for name, family in _rows() if family.names is not None)
        raise OptionError(f"weights are given to a model of this list ({listed}), not to {quoted(name)}")
    here = None if found is not None else existing(name)
    if (found is not None or here) and where.revision is not None:
        raise OptionError(f"{quoted(name)} lies here and has no revision {quoted(where.revision)}; leave revision out")
    if found is not None:
        return _of_table(name, where)
    if here and here[0].is_dir():
        if here[1]:
            raise OptionError(f"a folder has no key {quoted(here[1])}; only a file is given as FILE#KEY")
        return _of_folder(here[0], where)
    if here:
        return _of_file(name, here[0], where)
    if repository := re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)((?:/[\w.-]+)*)/?", name):
        return _of_repository(repository[1], repository[2].strip("/"), where)
    raise UnknownModelError(
        f"there is no model, file or folder {quoted(name)}{_hint(name)}; models are {', '.join(names())}"
    )


def _rows() -> list[tuple[str, Family]]:
    return [(name, family) for family in FAMILIES.values() for name in family.sizes]


def _hint(name: str) -> str:
    near = get_close_matches(name, names(), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _of_table(name: str, where: Where) -> Source:
    found = find(name)
    assert found is not None
    family, size = found
    return Source(name, family, None, size.shipped, where) if size.shipped else Source(name, family, size, None, where)


def _of_folder(folder: Path, where: Where) -> Source:
    """A folder of ours, or one with the files of a model that its authors published."""
    if is_own(folder):
        return Source("", family_of(folder, FAMILIES), None, folder, where)
    models = of_folder(folder)
    if not models:
        held = some(sorted(path.name for path in folder.iterdir()))
        raise MissingFileError(
            f"{folder} holds no {CONFIG} that stagevar wrote and no files of a known model, but {held}; give the model "
            "by name, and the folder as its --weights"
        )
    return _one(models, folder, where)


def _of_file(name: str, path: Path, where: Where) -> Source:
    if path.name in (CONFIG, WEIGHTS) and is_own(path.parent):
        raise OptionError(f"{path} is a part of the model in {path.parent}; give that folder")
    models = of_file(path)
    if not models:
        raise UnknownModelError(
            f"{path} has the tensors of no model here; give the model by name, and the file as its --weights"
        )
    return _one(models, Path(name), where)


def _one(models: list[str], path: Path, where: Where) -> Source:
    """The model whose files a path holds.

    Raises:
        UnknownModelError: there are several.
    """
    row = find(models[0])
    assert row is not None
    if len(models) > 1:
        raise UnknownModelError(f"{path} could be {' or '.join(models)}; name one, and give {path} as its --weights")
    return _of_table(models[0], at(path, row[1], where))


def _of_repository(repository: str, file: str, where: Where) -> Source:
    """A repository of the table, or one that holds a folder of ours."""
    listed = {size.files[0].repository.lower(): size.files[0].repository for _, size in published()}
    repository = listed.get(repository.lower(), repository)
    networks = {name: size.files[0].path for name, size in published() if size.files[0].repository == repository}
    chosen = [name for name, network in networks.items() if file in ("", network.rstrip("/"))]
    if len(chosen) == 1:
        return _of_table(chosen[0], where)
    if networks:
        raise UnknownModelError(f"{repository} holds several models; give one by name: {', '.join(networks)}")

    options: dict[str, Any] = {
        "revision": where.revision,
        "local_files_only": where.local_files_only,
        "token": where.token,
    }
    folder = locate(repository, f"{file}/{CONFIG}" if file else CONFIG, **options).parent
    return Source("", family_of(folder, FAMILIES), None, folder, where, (repository, file))


def skeleton(source: str | Path) -> ScaleModel:
    """A model on the meta device: all its shapes, none of its weights.

    Args:
        source: as ``resolve`` takes it.

    Raises:
        UnknownModelError, MissingFileError, ForeignCheckpointError
    """
    return outline(resolve(source))


def outline(meant: Source, *, encoder: bool = False) -> ScaleModel:
    """As ``skeleton``, from what ``resolve`` found.

    Args:
        encoder: whether the tokenizer of a published model has its encoder.
    """
    if meant.folder is not None and (meant.folder / CONFIG).exists():
        return folder_skeleton(meant.folder, meant.family)
    model = bare(meant.name)
    if not encoder or not without_encoder(model.config):
        return model
    return meant.family.outline(with_encoder(model.config), meant.name, model.defaults)


def fetch(meant: Source, *, text: bool = True) -> None:
    """Download what ``load`` would, so that other processes find it on the disk.

    Args:
        meant: as ``resolve`` found it.
        text: whether its text encoders are wanted.

    Raises:
        as ``available.check`` and ``download.locate``.
    """
    check(meant, text=text)
    for origin, file, options in meant.places(text=text):
        locate(origin, file, **options)


def load(
    source: str | Path, *, weights: str | Path | None = None, where: Where | None = None, **place: Any
) -> ScaleModel:
    """A model with its weights, frozen.

    Args:
        source, weights, where: as ``resolve`` takes them.
        place: fields of ``place.Placement``.

    Raises:
        UnknownModelError, OptionError: there is no such model, or it takes no weights.
        MissingFileError, MissingExtraError, OutputError: it cannot be had, see ``available.check``.
        ForeignCheckpointError, ShapeError, UnsafePickleError: its files hold another model, or are unsafe.
    """
    meant, placed = resolve(source, weights, where), Placement(**place)
    check(meant, text=placed.text_encoder)
    if meant.folder is not None:
        for origin, file, options in meant.places(text=placed.text_encoder):
            if meant.remote is not None and origin == meant.remote[0]:
                locate(origin, file, **options)
        with usual():
            return load_folder(meant.folder, meant.family, meant.where, placed)
    assert meant.size is not None
    try:
        with usual():
            return load_published(meant.name, meant.family, meant.size, meant.where, placed)
    except (ForeignCheckpointError, ShapeError) as error:
        raise type(error)(f"{error}{_other_model(meant)}") from None


def _other_model(meant: Source) -> str:
    """The end of the message about a checkpoint that did not fit: the models whose network it holds; "" if none."""
    assert meant.size is not None
    with suppress(CheckpointError):
        path = meant.where.find(meant.size.files[0], meant.size)
        found = recognise(read_state(path), path)
        if found and meant.name not in found:
            return f"; its tensors are those of {' or '.join(found)}"
    return ""
