"""Whether a model can be had, found out before anything is downloaded."""

from __future__ import annotations

from importlib.util import find_spec

from stagevar.errors import MissingExtraError, MissingFileError
from stagevar.families.catalogue import find
from stagevar.families.family import WEIGHTS
from stagevar.loading.download import locate, require_space, to_download
from stagevar.loading.source import Source


def check(meant: Source, *, text: bool = True) -> None:
    """Raise if a model cannot be loaded. Nothing is downloaded.

    Args:
        meant: as ``sources.resolve`` found it.
        text: whether its text encoders are wanted.

    Raises:
        MissingFileError: no weights are published, or a repository is gated, missing or without the files.
        MissingExtraError: transformers is not installed, and a text encoder needs it.
        OutputError: there is no space for the download.
    """
    if meant.size is not None and not meant.size.published and meant.where.network is None:
        raise MissingFileError(f"{meant.name} has no published weights; give your own network's file as its weights")
    if text and meant.text and meant.family.text is not None and find_spec("transformers") is None:
        raise MissingExtraError("transformers", "text")
    places = meant.places(text=text)
    own, missing = len(places) - len(meant.text) * len(meant.family.text_folders) * text, 0
    for number, (source, file, options) in enumerate(places):
        try:
            missing += to_download(source, file, **options)
        except MissingFileError as error:
            raise MissingFileError(f"text encoder: {error}" if number >= own else str(error)) from None
    require_space(missing, meant.name or "the model")


def on_disk(name: str) -> bool:
    """Whether network and tokenizer of the model with this name are in the package or in the hub's cache."""
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
