"""Write pictures to disk, under names that say what they show, with the record of how they were drawn in each file."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stagevar import __version__
from stagevar.calling import MAX_IMAGES
from stagevar.errors import ForeignCheckpointError, MissingFileError, OptionError
from stagevar.files import is_stdout, numbered, replacing, require_place, reserving, unwritable

if TYPE_CHECKING:
    from stagevar.request import Request

SUFFIX = ".png"
RECORD = "stagevar"
"""Text field of a picture that holds, as JSON, what repeats it."""


@dataclass(frozen=True)
class Target:
    """Where pictures go: a folder under names of their own, one named file, or standard output."""

    path: Path
    kind: Literal["folder", "file", "stream"]

    @classmethod
    def read(cls, text: Path, count: int) -> Target:
        """The target of ``count`` pictures, checked before anything is drawn. A path means one file if it ends in
        ``.png``, or if something other than a folder exists there.

        Raises:
            OptionError: several pictures for one file.
            OutputError: the place cannot be written to.
        """
        path = text.expanduser()
        try:
            if str(path) == "-" or is_stdout(path):
                target = cls(path, "stream")
            elif not path.is_dir() and (path.suffix.lower() == SUFFIX or os.path.lexists(path)):
                target = cls(path, "file")
            else:
                target = cls(path, "folder")
        except OSError as error:
            raise unwritable(path, error) from error
        if count > 1 and target.kind != "folder":
            raise OptionError(f"{count} pictures do not go into one file; let -o name a folder")
        if target.kind != "stream":
            require_place(path, folder=target.kind == "folder")
        return target

    def numbers(self, requests: Sequence[Request]) -> list[int]:
        """Which of the files of its stem each picture becomes, if they are written in this order."""
        taken: set[Path] = set()
        numbers = []
        for request in requests:
            name, number = stem(request.prompt, request.seed), 1
            while (path := numbered(self.path, name, SUFFIX, number)) in taken or os.path.lexists(path):
                number += 1
            taken.add(path)
            numbers.append(number)
        return numbers

    def write(self, image: Image.Image, record: Mapping[str, Any], number: int = 1) -> str:
        """Save a picture with its record.

        Args:
            image, record: what is saved.
            number: the least that its name in a folder is counted up from.

        Returns:
            The path of the file; ``-`` for standard output.

        Raises:
            OutputError: it cannot be written; nothing is left of it.
        """
        fields = PngInfo()
        shown = {name: record[name] for name in ("prompt", "seed", "model")}
        for key, value in {**shown, "Software": f"stagevar {__version__}", RECORD: json.dumps(record)}.items():
            fields.add_itxt(key, str(value))
        if self.kind == "stream":
            image.save(sys.stdout.buffer, format="png", pnginfo=fields)
            sys.stdout.buffer.flush()
            return "-"
        if self.kind == "file":
            with replacing(self.path) as temporary:
                image.save(temporary, format="png", pnginfo=fields)
            return str(self.path)
        name = stem(str(record["prompt"]), record["seed"])
        with reserving(self.path, name, SUFFIX, number) as (path, temporary):
            image.save(temporary, format="png", pnginfo=fields)
        return str(path)


def _repeats(record: Mapping[str, Any]) -> bool:
    """Whether a record says what was drawn, by which model, in which dtype and how large a batch."""
    origin, batch = record.get("origin"), record.get("batch", 1)
    if not isinstance(origin, dict) or not {"prompt", "seed"} <= record.keys():
        return False
    texts = origin.get("source"), record.get("dtype"), origin.get("weights") or "", origin.get("revision") or ""
    return all(isinstance(text, str) for text in texts) and isinstance(batch, int) and 0 < batch <= MAX_IMAGES


def stem(prompt: str, seed: int) -> str:
    """The name of a picture's file, without suffix and number."""
    return f"{slug(prompt)}-{seed}"


def slug(prompt: str, longest: int = 80) -> str:
    """A prompt as part of a file name: letters, digits and hyphens, at most ``longest`` bytes."""
    text = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    return text.encode()[:longest].decode(errors="ignore").rstrip("-") or "picture"


def read_record(path: Path) -> tuple[Image.Image, dict[str, Any]]:
    """A picture and the record of how it was drawn.

    Raises:
        MissingFileError: there is no such picture.
        ForeignCheckpointError: it holds no record of this package.
    """
    try:
        with Image.open(path.expanduser()) as opened:
            image, text = opened.convert("RGB"), str(opened.info.get(RECORD, ""))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or "it is no picture"
        raise MissingFileError(f"cannot read picture {path}: {why}") from None
    with suppress(ValueError, RecursionError):
        record = json.loads(text)
        if isinstance(record, dict) and _repeats(record):
            return image, record
    raise ForeignCheckpointError(f"{path} does not say how it was made; pictures of `stagevar generate` do")
