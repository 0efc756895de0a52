"""The files that a benchmark reads, as digests of their contents: figures hold for the files that they were drawn
with, whatever lies at those paths later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from stagevar.accelerators.base import Accelerator, Sum
from stagevar.errors import MissingFileError
from stagevar.families.catalogue import find
from stagevar.families.family import CONFIG
from stagevar.loading.local import existing
from stagevar.registry import parse
from stagevar.untrusted import PICKLES

READ = (*PICKLES, ".safetensors", ".json", ".model", ".txt")
"""Suffixes of what is read of a model's folder: weights, settings, fitted numbers and vocabularies."""


PROMPTS = "prompts"


def digests(
    model: str, accelerators: Sequence[str | Accelerator], lpips: Sequence[str], prompts: Sequence[str]
) -> dict[str, str]:
    """The digest of every file that a cell's figures depend on, by path; that of the prompts by ``PROMPTS``.

    Args:
        model: as a user names it; one of the catalogue or the hub reads no file that a user may write anew.
        accelerators: as ``stagevar.registry.parse`` reads them; some name files.
        lpips: files of LPIPS weights.
        prompts: the lines that are drawn.

    Raises:
        OptionError: an accelerator that cannot be read.
        MissingFileError: a file that cannot be read.
    """
    named = (file for accelerator in accelerators for file in _of_accelerator(accelerator))
    files = dict.fromkeys([*_of_model(model), *named, *map(Path, lpips)])
    found = {str(file): _digest(file.expanduser()) for file in files}
    return found | ({PROMPTS: hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()} if prompts else {})


def _of_model(name: str) -> Iterator[Path]:
    """The files of a model that lies here: a file, or a folder with those of its text encoders."""
    here = existing(name) if find(name) is None else None
    if here is not None and here[0].is_file():
        yield here[0]
    elif here is not None:
        encoders = (each for each in sorted(here[0].iterdir()) if (each / CONFIG).is_file())
        for folder in (here[0], *encoders):
            yield from (each for each in sorted(folder.iterdir()) if each.suffix in READ and each.is_file())


def _of_accelerator(accelerator: str | Accelerator) -> Iterator[Path]:
    """The files that the settings of an accelerator name."""
    found = parse(accelerator)
    for part in found.parts if isinstance(found, Sum) else (found,):
        yield from (
            Path(getattr(part, f.name)) for f in fields(part) if f.metadata.get("file") and getattr(part, f.name)
        )


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise MissingFileError(f"cannot read {file}: {error.strerror or error}") from None
