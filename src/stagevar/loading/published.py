"""Loading a model from the files that its authors published, here or on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import ForeignCheckpointError, MissingFileError
from stagevar.families.family import CONFIG, Family, File, Names, Size, TextReader, without_encoder
from stagevar.loading.download import locate
from stagevar.loading.fill import fill
from stagevar.loading.hub import last_part
from stagevar.loading.nesting import Nest, choose, nests
from stagevar.loading.place import Placement
from stagevar.loading.read import load_config, read_state


@dataclass(frozen=True, slots=True)
class Where:
    """Where files are looked for.

    Attributes:
        folder: local folder to look in before the hub. Files of the network's repository lie directly in it; files of
            another repository ``owner/name`` lie in it too, or in a subfolder ``name``.
        network: the network's own file, whatever its name.
        revision: of the network's repository, as in huggingface_hub.
        local_files_only, token: as in huggingface_hub.
    """

    folder: Path | None = None
    network: Path | None = None
    revision: str | None = None
    local_files_only: bool = False
    token: str | bool | None = None

    def find(self, file: File, size: Size, path: str | None = None) -> Path:
        """The local path of a file, or of another one of its repository; downloaded if need be.

        Raises:
            MissingFileError
        """
        if file == size.files[0] and self.network is not None:
            return self.network if path is None else locate(self.network.parent, Path(path).name)
        path = file.path if path is None else path
        return locate(self.source(file, size, path), path, **self.options(file.repository, size))

    def source(self, file: File, size: Size, path: str) -> str | Path:
        """The folder or the repository that a file is looked for in."""
        if self.folder is None:
            return file.repository
        if file.repository and (own := self.folder / last_part(file.repository)).is_dir():
            return own
        beside = any((self.folder / path).with_suffix(s).exists() for s in (Path(path).suffix, ".safetensors"))
        required = file.repository == size.files[0].repository and self.network is None
        return self.folder if required or (path and beside) else file.repository

    def encoder(self, repository: str, size: Size, folders: tuple[str, ...]) -> Path:
        """The folder of a text encoder; downloaded if need be.

        Raises:
            MissingFileError
        """
        source = self.encoder_source(repository, size)
        try:
            found = [locate(source, folder, **self.options(repository, size)) for folder in folders]
        except MissingFileError as error:
            raise MissingFileError(f"text encoder: {error}") from None
        return found[0].parents[len(Path(folders[0]).parts) - 1] if folders[0] else found[0]

    def encoder_source(self, repository: str, size: Size) -> str | Path:
        """The folder or the repository that a text encoder is looked for in."""
        if self.folder is None:
            return repository
        own = self.folder / last_part(repository)
        same = bool(size.files) and repository == size.files[0].repository
        return own if own.is_dir() else self.folder if same else repository

    def options(self, repository: str, size: Size) -> dict[str, Any]:
        """For a file of a repository, as ``hub.locate`` takes them."""
        main = bool(size.files) and repository == size.files[0].repository
        return {
            "revision": self.revision if main else None,
            "local_files_only": self.local_files_only,
            "token": self.token,
        }


def load_encoder(family: Family, size: Size, where: Where, place: Placement) -> TextReader | None:
    """The text encoder of a model, None if its network reads the prompts itself or none is wanted.

    Raises:
        MissingFileError, ForeignCheckpointError, MissingExtraError
    """
    if family.text is None or not size.text or not place.text_encoder:
        return None
    folders = [where.encoder(repository, size, family.text_folders) for repository in size.text]
    return family.text(folders, dtype=place.dtype, device=place.device, offload=place.offload_text_encoder)


def load_published(name: str, family: Family, size: Size, where: Where, place: Placement) -> ScaleModel:
    """The network with its tokenizer and text encoder. All files are found, and the text encoder is read, before the
    large files are.

    Raises:
        MissingFileError, ForeignCheckpointError, ShapeError, UnsafePickleError, MissingExtraError
    """
    if not size.published and where.network is None:
        raise MissingFileError(f"{name} has no published weights; give your own network's file as its weights")
    config = size.config
    if place.encoder and without_encoder(config):
        config = replace(config, tokenizer=replace(config.tokenizer, encoder=True))
    network = where.find(size.files[0], size)
    if family.adapt is not None:
        beside = size.files[0].path.rpartition("/")[0]
        settings = where.find(size.files[0], size, f"{beside}/{CONFIG}" if beside else CONFIG)
        config = family.adapt(config, load_config(settings.parent))
    paths = {size.files[0]: network} | {file: _elsewhere(file, size, where) for file in size.files[1:]}
    encoder = load_encoder(family, size, where, place)
    read: list[tuple[File, Path, Nest]] = []
    state = read_state(network)
    for file, path in paths.items():
        nest = _nest(family, size, config, file, state, network)
        if file != size.files[0] and not (path is None and _whole(family, size, config, file, nest)):
            path = where.find(file, size) if path is None else path
            nest = _nest(family, size, config, file, read_state(path), path)
        read.append((file, network if path is None else path, nest))
    model = _built(name, family, size, config, read[0])
    assert family.names is not None
    names, tensors = family.names(model), dict[str, Tensor]()
    for file, _, nest in read:
        tensors |= {file.prefix + key: tensor for key, tensor in nest.tensors.items()}
    prefixes = tuple(file.prefix for file in size.files)
    fill(model, tensors, names.rename, names.reshape, source=network, dtype=place.dtype, prefixes=prefixes)
    model.text_encoder = encoder
    return model.to(place.device)


def _elsewhere(file: File, size: Size, where: Where) -> Path | None:
    """The path of the tokenizer's own file; None where the user's file of the network may hold a tokenizer, which then
    comes first."""
    if where.network is not None:
        return None
    try:
        return where.find(file, size)
    except MissingFileError:
        if where.folder is None:
            raise
        return None


def _nest(family: Family, size: Size, config: Any, file: File, state: Mapping[str, Any], path: Path) -> Nest:
    """Where a checkpoint keeps the tensors of one of the model's files; all that it holds if it keeps none of them."""
    wanted, names = _expected(family, size, config, file), _names(family, size, config)
    found = choose(state, file.inside, lambda key: names.rename(file.prefix + key) in wanted, path)
    return found or max(nests(state), key=lambda nest: len(nest.tensors), default=Nest((), {}))


def _whole(family: Family, size: Size, config: Any, file: File, nest: Nest) -> bool:
    """Whether a nest has all tensors of one of the model's files."""
    names = _names(family, size, config)
    return _expected(family, size, config, file) <= {names.rename(file.prefix + key) for key in nest.tensors}


def _expected(family: Family, size: Size, config: Any, file: File) -> set[str]:
    """Our names of the tensors of one of the model's files: the network's, or the picture tokenizer's."""
    every = _outline(family, size, config).state_dict()
    return {name for name in every if name.startswith("tokenizer.") == (file != size.files[0])}


def _names(family: Family, size: Size, config: Any) -> Names:
    assert family.names is not None
    return family.names(_outline(family, size, config))


def _outline(family: Family, size: Size, config: Any) -> ScaleModel:
    return family.outline(config, "outline", size.defaults)


def _built(name: str, family: Family, size: Size, config: Any, network: tuple[File, Path, Nest]) -> ScaleModel:
    """The network on the meta device, its config corrected by the shapes of the tensors that have been read."""
    file, path, nest = network
    if family.measure is not None:
        names = _names(family, size, config)
        ours = {names.rename(file.prefix + key): tuple(tensor.shape) for key, tensor in nest.tensors.items()}
        try:
            config = family.measure(config, {key: shape for key, shape in ours.items() if key is not None})
        except ValueError as error:
            raise ForeignCheckpointError(f"{path} does not fit {name}: {error}") from None
    return family.outline(config, name, size.defaults)
