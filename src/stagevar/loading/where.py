"""Choose where the files of a model are looked for: in the user's folders or on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagevar.errors import MissingFileError
from stagevar.families.family import File, Size
from stagevar.loading.download import locate
from stagevar.loading.hub import last_part


@dataclass(frozen=True, slots=True)
class Where:
    """Where the files of a model are looked for.

    Attributes:
        folder: local folder to look in before the hub. Files of the network's repository lie directly in it; files of
            another repository ``owner/name`` lie in it too, or in a subfolder ``name``.
        network: the network's own file or folder of shards, whatever its name.
        key: key under which ``network`` keeps the weights, if the user named one.
        revision: of the network's repository, as in huggingface_hub.
        local_files_only, token: as in huggingface_hub.
    """

    folder: Path | None = None
    network: Path | None = None
    key: str = ""
    revision: str | None = None
    local_files_only: bool = False
    token: str | bool | None = None

    def find(self, file: File, size: Size, path: str | None = None) -> Path:
        """The local path of a file; downloaded if need be.

        Args:
            file: a file of the model.
            size: the model's row.
            path: another file of the same repository, to be found in place of ``file``.

        Raises:
            as ``download.locate``.
        """
        if file == size.files[0] and self.network is not None:
            folder = self.network if self.network.is_dir() else self.network.parent
            return self.network if path is None else locate(folder, Path(path).name)
        path = file.path if path is None else path
        return locate(
            self.source(file, size, path), path, **self.options(main=file.repository == size.files[0].repository)
        )

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
        """The folder that holds a text encoder; downloaded if need be.

        Args:
            repository: the encoder's.
            size: the model's row.
            folders: folders of the repository that hold encoder and tokenizer; "" is the root.

        Raises:
            as ``download.locate``.
        """
        source, options = self.encoder_source(repository, size), self.options(main=_main(repository, size))
        try:
            found = [locate(source, folder, **options) for folder in folders]
        except MissingFileError as error:
            raise MissingFileError(f"text encoder: {error}") from None
        return found[0].parents[len(Path(folders[0]).parts) - 1] if folders[0] else found[0]

    def encoder_source(self, repository: str, size: Size) -> str | Path:
        """The folder or the repository that a text encoder is looked for in."""
        if self.folder is None:
            return repository
        own = self.folder / last_part(repository)
        return own if own.is_dir() else self.folder if _main(repository, size) else repository

    def options(self, *, main: bool) -> dict[str, Any]:
        """Options of ``download.locate`` for a file.

        Args:
            main: whether it is of the network's repository.
        """
        return {
            "revision": self.revision if main else None,
            "local_files_only": self.local_files_only,
            "token": self.token,
        }


def _main(repository: str, size: Size) -> bool:
    return bool(size.files) and repository == size.files[0].repository
