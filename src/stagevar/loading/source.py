"""What a name, path or repository has turned out to be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stagevar.families.family import CONFIG, WEIGHTS, Family, Size
from stagevar.loading.download import holds, is_here
from stagevar.loading.folder import text_repositories
from stagevar.loading.hub import last_part
from stagevar.loading.published import within
from stagevar.loading.where import Where


@dataclass(frozen=True, slots=True)
class Source:
    """What a name, path or repository means: a model of the catalogue, or a folder that this package wrote.

    Attributes:
        name: name of the model; "" if the folder's config has it.
        family: its family.
        size: its row of the catalogue; None for a folder.
        folder: folder that this package wrote; None for published files.
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

    def places(self, *, text: bool = True) -> list[tuple[str | Path, str, dict[str, Any]]]:
        """Arguments of ``download.locate`` for each file: folder or repository, path in it, options. Network first.

        Args:
            text: whether those of the text encoders are among them.
        """
        size = self.size or Size(None, text=self.text)
        where = self.where if self.folder is None else replace(self.where, folder=self.folder)
        if self.remote is not None:
            repository, inside = self.remote
            found: list[tuple[str | Path, str]] = [(repository, f"{inside}/" if inside else "")]
        elif self.folder is not None:
            found = [(self.folder, name) for name in (CONFIG, WEIGHTS)]
        else:
            found = [(where.source(file, size, file.path), file.path) for file in size.files]
            if not is_here(*found[-1]) and within(self.family, size, where):
                del found[-1]  # the tokenizer is in the network's file
            if where.network is not None:
                found[0] = where.network.parent, where.network.name + "/" * where.network.is_dir()
        if text:
            found += [
                self._text(name, inside, where, size) for name in self.text for inside in self.family.text_folders
            ]
        return [(source, file, self._options(source, size)) for source, file in found]

    def _text(self, name: str, inside: str, where: Where, size: Size) -> tuple[str | Path, str]:
        """Folder or repository, and path in it, of a text encoder. A folder of ours on the hub may hold a copy of it;
        all other encoders are looked for as published files."""
        if self.remote is not None:
            repository, folder = self.remote
            copied = "/".join(filter(None, (folder, last_part(name), inside))).rstrip("/") + "/"
            if holds(repository, copied, **self._options(repository, size)):
                return repository, copied
        return where.encoder_source(name, size), inside

    def _options(self, source: str | Path, size: Size) -> dict[str, Any]:
        main = self.remote[0] if self.remote is not None else size.files[0].repository if size.files else None
        return self.where.options(main=source == main)
