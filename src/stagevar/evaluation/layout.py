"""A job's pictures as files where the official scorer reads them."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from operator import index
from pathlib import Path

from PIL import Image

from stagevar.errors import MissingFileError, OptionError, quoted
from stagevar.evaluation.reading import read_json, text_of
from stagevar.evaluation.run import PICTURES, Run, row_ids
from stagevar.evaluation.suite import Item
from stagevar.files import one_name, renewing

FILES = "layout.json"
"""Lists the files that a layout wrote, so that the next one renews those and no others."""


@dataclass(frozen=True, slots=True)
class Laid:
    """What a layout found.

    Attributes:
        asked, drawn: pictures of the whole run, and those that are there.
        files: pictures for the scorer.
        scales: per scale how many of the drawn pictures ran it.
        made: what drew them: dtype and versions.
    """

    asked: int
    drawn: int
    files: int
    scales: dict[str, int]
    made: dict[str, str]

    @property
    def whole(self) -> bool:
        return self.drawn == self.asked


def lay_out(run: Run) -> Laid:
    """Write the official layout of what has been drawn so far. A prompt of which a picture is missing is left out.

    Raises:
        OutputError: a file cannot be written, or one that this did not write is in its place.
        OptionError: as in ``own_files``; a picture's record is not there, or damaged.
    """
    names = {item.key: row_ids(item, run.protocol) for item in run.items}
    there = {key: [run.drawn / f"{name}.png" for name in found] for key, found in names.items()}
    drawn = [path for paths in there.values() for path in paths if path.exists()]
    whole = {key: paths for key, paths in there.items() if all(path.exists() for path in paths)}
    with renewing(run.folder, own_files(run)) as temporary:
        files: dict[str, list[Path]] = {}
        for item in run.items:
            if item.key in whole:
                paths = _pictures(run, item, whole[item.key], temporary)
                files[item.key] = [run.folder.absolute() / path.relative_to(temporary) for path in paths]
        for name, text in run.suite.notes(run.items, files).items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_text(text, encoding="utf-8")
        written = [path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file()]
        (temporary / FILES).write_text(json.dumps([FILES, *sorted(written)]), encoding="utf-8")
    asked = sum(map(len, names.values()))
    scales, made = _records(drawn)
    return Laid(asked, len(drawn), sum(map(len, files.values())), scales, made)


def own_files(run: Run) -> list[str]:
    """The files of the layout before, by their paths in the folder of the run; none if there is none.

    Raises:
        OptionError: the file that lists them is of another program, or lists what no layout of the benchmark writes.
    """
    path, notes = run.folder / FILES, run.suite.notes([], {})
    if not path.exists():
        return []
    found = read_json(path)
    if not isinstance(found, list) or found[:1] != [FILES] or not all(isinstance(each, str) for each in found):
        raise OptionError(f"{path} lists no files of a layout; give another folder")
    for file in found[1:]:
        parts = file.split("/")
        if file not in notes and not (parts[0] == PICTURES and len(parts) > 1 and all(map(one_name, parts))):
            raise OptionError(f"{path} lists {quoted(file)}, which is no file of its layout; give another folder")
    return found


def _pictures(run: Run, item: Item, drawn: Sequence[Path], temporary: Path) -> list[Path]:
    """Write the pictures of an item.

    Returns:
        Their paths.
    """
    suite, jpeg = run.suite, run.protocol.jpeg
    count = 1 if suite.sheet else len(drawn)
    places = [temporary / PICTURES / f"{suite.place(item, i)}{suite.suffix}" for i in range(count)]
    for path in places:
        path.parent.mkdir(parents=True, exist_ok=True)
    if suite.sheet:
        _write(sheet([_opened(path) for path in drawn]), jpeg, places[0])
    elif jpeg:
        for source, path in zip(drawn, places, strict=True):
            _write(_opened(source), jpeg, path)
    else:
        for source, path in zip(drawn, places, strict=True):
            _link(source, path)
    return places


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Four pictures of one size, two by two, in the order of reading."""
    width, height = pictures[0].size
    whole = Image.new("RGB", (2 * width, 2 * height))
    for i, picture in enumerate(pictures):
        whole.paste(picture, (i % 2 * width, i // 2 * height))
    return whole


def _write(image: Image.Image, jpeg: int, path: Path) -> None:
    """Write a picture. Where the scorer reads PNG only, one that is to pass JPEG compression is stored after it."""
    if jpeg:
        image.save(buffer := BytesIO(), format="jpeg", quality=jpeg)
        if path.suffix == ".jpg":
            path.write_bytes(buffer.getvalue())
            return
        image = Image.open(buffer)
    image.save(path)


def _link(source: Path, path: Path) -> None:
    """The same file under another name, or a copy where the disk has no links."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _records(drawn: Sequence[Path]) -> tuple[dict[str, int], dict[str, str]]:
    """Per scale how many pictures ran it, and the dtypes and versions that drew them, from the records beside them.

    Raises:
        OptionError: a record is not there, or damaged.
    """
    ran, made = Counter[int](), {name: set[str]() for name in ("dtype", "stagevar", "torch")}
    for picture in drawn:
        path = picture.with_suffix(".json")
        try:
            record = read_json(path)
            ran.update({index(each["scale"]) for each in record["scales"]})
            for name, found in made.items():
                found.add(text_of(record, name, path))
        except (MissingFileError, OptionError, KeyError, TypeError):
            said = f"{path} is no record of {picture.name}"
            raise OptionError(f"{said}; remove both and run again with --prompts, which draws it again") from None
    scales = {str(scale): ran[scale] for scale in sorted(ran)}
    return scales, {name: " and ".join(sorted(found)) for name, found in made.items()}
