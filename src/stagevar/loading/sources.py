"""What a name, path or repository means, and the model behind it."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.computing import float32_default
from stagevar.errors import (
    CheckpointError,
    ForeignCheckpointError,
    MissingExtraError,
    MissingFileError,
    OptionError,
    ShapeError,
    UnknownModelError,
    quoted,
    some,
)
from stagevar.families.catalogue import FAMILIES, bare, find, names, published
from stagevar.families.family import CONFIG, WEIGHTS, Family, Size
from stagevar.loading.download import check_reachable, locate
from stagevar.loading.folder import family_of, folder_skeleton, load_folder, text_repositories
from stagevar.loading.local import at, existing, of_file, of_folder
from stagevar.loading.place import Placement
from stagevar.loading.published import load_published, within
from stagevar.loading.read import load_config, read_state
from stagevar.loading.recognise import recognise
from stagevar.loading.where import Where


@dataclass(frozen=True, slots=True)
class Source:
    """What a name, path or repository stands for: a row of the table, or a folder that this package wrote.

    Attributes:
        name: of the model, "" where the folder knows it.
        family: its family.
        size: its row, None for a folder.
        folder: that this package wrote, None for published files.
        where: where published files and text encoders are looked for.
        remote: (repository, folder in it) if ``folder`` is the hub cache's copy of it. Only the config has been
            fetched so far; ``load`` fetches the weights.
    """

    name: str
    family: Family
    size: Size | None
    folder: Path | None
    where: Where
    remote: tuple[str, str] | None = None

    @property
    def text(self) -> tuple[str, ...]:
        """Hub repositories of the text encoders."""
        if self.folder is not None:
            return text_repositories(self.folder, self.family)
        return () if self.size is None else self.size.text

    def places(self) -> list[tuple[str | Path, str, dict[str, Any]]]:
        """Of all files, network first: folder or repository, file or folder in it, options of ``download.locate``."""
        size = self.size or Size(None, text=self.text)
        where = self.where if self.folder is None else replace(self.where, folder=self.folder)
        if self.remote is not None:
            repository, inside = self.remote
            own: list[tuple[str | Path, str]] = [(repository, f"{inside}/" if inside else "")]
        elif self.folder is not None:
            own = [(self.folder, name) for name in (CONFIG, WEIGHTS)]
        else:
            alone = within(self.family, size, where)  # the tokenizer is in the network's file
            own = [(where.source(file, size, file.path), file.path) for file in size.files[: 1 if alone else None]]
            if where.network is not None:
                own[0] = where.network.parent, where.network.name + "/" * where.network.is_dir()
        text = [(where.encoder_source(name, size), inside) for name in self.text for inside in self.family.text_folders]
        return [(source, file, where.options(str(source), size)) for source, file in (*own, *text)]


def resolve(source: str | Path, weights: str | Path | None = None, where: Where | None = None) -> Source:
    """Find out what a user means. Nothing is downloaded but the config of a folder of ours on the hub.

    Args:
        source: a name of ``entries``; a folder that ``folder.save_model`` wrote, here or as a hub repository; a hub
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
    if found is not None:
        return _of_table(name, where)
    if here := existing(name):
        return _of_folder(here[0], where) if here[0].is_dir() else _of_file(name, here[0], where)
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
    if (folder / CONFIG).exists() and "family" in load_config(folder):
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

    folder = _fetch(repository, file, CONFIG, where).parent
    return Source("", family_of(folder, FAMILIES), None, folder, where, (repository, file))


def _fetch(repository: str, file: str, name: str, where: Where) -> Path:
    """A file or folder of a folder of ours on the hub."""
    at = f"{file}/{name}" if file else name
    return locate(repository, at, revision=where.revision, local_files_only=where.local_files_only, token=where.token)


def _fetch_all(meant: Source) -> None:
    """The weights and text encoders of a folder of ours on the hub."""
    assert meant.remote is not None
    _fetch(*meant.remote, "", meant.where)
    for text in meant.text:
        for inside in meant.family.text_folders:
            with suppress(MissingFileError):  # then the folder refers to the encoder's own repository
                _fetch(*meant.remote, f"{text.split('/')[-1]}/{inside}", meant.where)


def skeleton(source: str | Path) -> ScaleModel:
    """A model on the meta device: all its shapes, none of its weights.

    Args:
        source: as ``resolve`` takes it.

    Raises:
        UnknownModelError, MissingFileError, ForeignCheckpointError
    """
    return outline(resolve(source))


def outline(meant: Source) -> ScaleModel:
    """See ``skeleton``."""
    if meant.folder is not None and (meant.folder / CONFIG).exists():
        return folder_skeleton(meant.folder, meant.family)
    return bare(meant.name)


def check(meant: Source) -> None:
    """Raise if a model cannot be had: nothing is published, an extra is not installed, or one of its repositories is
    gated, missing or without the files. Nothing is downloaded.

    Raises:
        MissingFileError, MissingExtraError
    """
    if meant.size is not None and not meant.size.published and meant.where.network is None:
        raise MissingFileError(f"{meant.name} has no published weights; give your own network's file as its weights")
    if meant.text and meant.family.text is not None and find_spec("transformers") is None:
        raise MissingExtraError("transformers", "text")
    for source, file, options in meant.places():
        check_reachable(source, file, **options)


def load(
    source: str | Path, *, weights: str | Path | None = None, where: Where | None = None, **place: Any
) -> ScaleModel:
    """A model with its weights, frozen.

    Args:
        source, weights, where: as ``resolve`` takes them.
        place: fields of ``place.Placement``.

    Raises:
        UnknownModelError, MissingFileError, ForeignCheckpointError, ShapeError, UnsafePickleError, MissingExtraError
    """
    meant, placed = resolve(source, weights, where), Placement(**place)
    if meant.folder is not None:
        if meant.remote is not None:
            _fetch_all(meant)
        with float32_default():
            return load_folder(meant.folder, meant.family, meant.where, placed)
    assert meant.size is not None
    try:
        with float32_default():
            return load_published(meant.name, meant.family, meant.size, meant.where, placed)
    except (ForeignCheckpointError, ShapeError) as error:
        raise type(error)(f"{error}{_other_model(meant)}") from None


def _other_model(meant: Source) -> str:
    """Whose network a checkpoint that did not fit holds, as the end of a sentence; "" if that is not the trouble."""
    assert meant.size is not None
    with suppress(CheckpointError):
        path = meant.where.find(meant.size.files[0], meant.size)
        found = recognise(read_state(path), path)
        if found and meant.name not in found:
            return f"; its tensors are those of {' or '.join(found)}"
    return ""


def on_disk(name: str) -> bool:
    """Whether network and tokenizer of a model are here, in the package or in the hub's cache."""
    found = find(name)
    if found is None:
        return False
    size = found[1]
    if size.shipped:
        return (size.shipped / WEIGHTS).exists()
    if not size.published:
        return False
    try:
        for file in size.files:
            locate(file.repository, file.path, local_files_only=True)
    except MissingFileError:
        return False
    return size.published
