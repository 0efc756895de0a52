"""Loading a model from the files that its authors published, here or on the hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import MissingFileError
from stagevar.families.family import CONFIG, Family, Part, Size, TextReader
from stagevar.loading.download import locate
from stagevar.loading.fill import fill
from stagevar.loading.place import Placement
from stagevar.loading.read import load_config, read_state, unwrap


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

    def find(self, part: Part, size: Size, file: str | None = None) -> Path:
        """The path of a part, or of another file of its repository; downloaded if need be.

        Raises:
            MissingFileError
        """
        network = part == size.parts[0]
        if network and self.network is not None:
            return self.network if file is None else locate(self.network.parent, Path(file).name)
        file = part.file if file is None else file
        return locate(self.source(part, size, file), file, **self.options(part.repository, size))

    def source(self, part: Part, size: Size, file: str) -> str | Path:
        """The folder or the repository that a part's file is looked for in."""
        if self.folder is None:
            return part.repository
        if (own := self.folder / _last(part.repository)).is_dir():
            return own
        beside = any((self.folder / file).with_suffix(s).exists() for s in (Path(file).suffix, ".safetensors"))
        required = part.repository == size.parts[0].repository and self.network is None
        return self.folder if required or (file and beside) else part.repository

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
        own = self.folder / _last(repository)
        same = bool(size.parts) and repository == size.parts[0].repository
        return own if own.is_dir() else self.folder if same else repository

    def options(self, repository: str, size: Size) -> dict[str, Any]:
        """For a file of a repository, as ``hub.locate`` takes them."""
        main = bool(size.parts) and repository == size.parts[0].repository
        return {
            "revision": self.revision if main else None,
            "local_files_only": self.local_files_only,
            "token": self.token,
        }


def _last(repository: str) -> str:
    return repository.split("/")[-1]


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
    if not size.parts or family.names is None:
        raise MissingFileError(f"{name} has no published weights; train your own, or load a folder that stagevar wrote")
    files = [where.find(part, size) for part in size.parts]
    config = size.config
    if family.adapt is not None:
        beside = size.parts[0].file.rpartition("/")[0]
        settings = where.find(size.parts[0], size, f"{beside}/{CONFIG}" if beside else CONFIG)
        config = family.adapt(config, load_config(settings.parent))
    if place.encoder and getattr(config.tokenizer, "encoder", None) is False:
        config = replace(config, tokenizer=replace(config.tokenizer, encoder=True))
    encoder = load_encoder(family, size, where, place)
    with torch.device("meta"):
        model = family.build(config, name, size.defaults)
    state: dict[str, Tensor] = {}
    for part, file in zip(size.parts, files, strict=True):
        state |= {part.prefix + key: tensor for key, tensor in unwrap(read_state(file), *part.inside).items()}
    names = family.names(model)
    fill(model, state, names.rename, names.reshape, source=files[0], dtype=place.dtype)
    model.text_encoder = encoder
    return model.to(place.device)
