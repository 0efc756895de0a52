"""Write pictures to disk, under names that say what they show."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stagevar.errors import OptionError
from stagevar.files import is_stdout, numbered, replacing, require_own, require_place, reserving, unwritable
from stagevar.record import is_own, png_fields

if TYPE_CHECKING:
    from PIL import Image

    from stagevar.request import Request

SUFFIX = ".png"


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
            OutputError: the place cannot be written to, or a file that is no picture of ours is there.
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
        if target.kind == "file":
            require_own(path, is_own)
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
        fields = png_fields(record)
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


def require_apart(stream: bool, as_json: bool) -> None:
    """Raise if a picture and JSON are both to go to standard output.

    Raises:
        OptionError
    """
    if stream and as_json:
        raise OptionError("the picture and --json cannot both go to standard output; let -o name a file")


def stem(prompt: str, seed: int) -> str:
    """The name of a picture's file, without suffix and number."""
    return f"{slug(prompt)}-{seed}"


def slug(prompt: str, longest: int = 80) -> str:
    """A prompt as part of a file name: letters, digits and hyphens, at most ``longest`` bytes."""
    text = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    return text.encode()[:longest].decode(errors="ignore").rstrip("-") or "picture"
