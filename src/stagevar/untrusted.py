"""Checks of files that others wrote, before they are read or given to a library that reads them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from stagevar.errors import ForeignCheckpointError, MissingFileError, first_line, quoted, some
from stagevar.files import one_name

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
LARGEST_SETTINGS, LARGEST_INDEX = 2**20, 2**26
"""Most bytes of a ``config.json``, and of an index of shards."""


def stands_for(path: Path) -> str:
    """What a file holds in place of weights or settings, by its first 512 bytes; "" if they show nothing wrong."""
    with path.open("rb") as file:
        start = file.read(512)
    text = start.removeprefix(b"\xef\xbb\xbf").strip().lower()
    if not text:
        return "nothing"
    if text.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer; run git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "a web page; download the file itself"
    if path.suffix != ".json" and len(start) < 512 and text.isascii() and text.decode().replace("\n", "").isprintable():
        return f"the text {quoted(start.decode().strip())}; download the file itself"
    return ""


def read_settings(path: Path, most: int = LARGEST_SETTINGS) -> dict[str, Any]:
    """Read a JSON file of settings by name.

    Args:
        most: largest number of bytes that the file may have.

    Raises:
        MissingFileError: the file cannot be read.
        ForeignCheckpointError: it is too large, or holds no JSON object.
    """
    try:
        if path.stat().st_size > most:
            raise ForeignCheckpointError(f"{path} has more than {most} bytes, too many for what it should be")
        settings = json.loads(path.read_bytes())
    except OSError:
        raise MissingFileError(f"{path.parent} has no {path.name} that can be read") from None
    except (ValueError, RecursionError) as error:
        what = stands_for(path)
        why = f": it holds {what}" if what else f" ({first_line(error)})"
        raise ForeignCheckpointError(f"{path} is not JSON{why}") from None
    if not isinstance(settings, dict):
        raise ForeignCheckpointError(f"{path} holds a {type(settings).__name__}, not settings by name")
    return settings


def shard_names(index: Path) -> list[str]:
    """The names of the files that an index of shards lists; all of them lie beside it.

    Raises:
        MissingFileError: the index or a shard is not there.
        ForeignCheckpointError: it is no index, or points outside its folder.
    """
    try:
        names = sorted({str(name) for name in read_settings(index, LARGEST_INDEX)["weight_map"].values()})
    except (KeyError, AttributeError):
        raise ForeignCheckpointError(f"{index} is not an index of shards; download it again") from None
    if strays := [name for name in names if not one_name(name)]:
        raise ForeignCheckpointError(f"{index} points outside its folder ({quoted(strays[0])})")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise MissingFileError(f"{index.parent} lacks {len(missing)} of {len(names)} shards: {some(missing)}")
    return names


def check_archive(path: Path) -> bool:
    """Whether a file is a zip archive, which has to be as ``torch.save`` writes it: records are stored as they are.

    torch reads compressed records as garbage. Compressed records, and records that share bytes, could unfold to any
    size.

    Raises:
        ForeignCheckpointError: the archive is damaged, or its records are compressed, encrypted or overlap.
    """
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ForeignCheckpointError(f"{path} is truncated or no checkpoint ({first_line(error)})") from None
    stored = all(each.compress_type == zipfile.ZIP_STORED and not each.flag_bits & 1 for each in records)
    if not stored or sum(each.file_size for each in records) > path.stat().st_size:
        raise ForeignCheckpointError(
            f"{path} was zipped again with compression, which torch cannot read; unzip it and zip it without (zip -0), "
            "or download it again"
        )
    return True


def check_folder(folder: Path) -> int:
    """Check the files of a folder that a library will read by itself.

    Returns:
        Number of bytes of its weights.

    Raises:
        MissingFileError: a shard is not there.
        ForeignCheckpointError: a file is no checkpoint, or a damaged one.
    """
    size = 0
    for path in sorted(folder.iterdir()):
        if path.suffix not in (*PICKLES, ".safetensors", ".json", ".model") or not path.is_file():
            continue
        if what := stands_for(path):
            raise ForeignCheckpointError(f"{path} is truncated or no such file: it holds {what}")
        if path.name.endswith(".index.json"):
            shard_names(path)
        elif path.suffix in PICKLES:
            check_archive(path)
        size += path.stat().st_size if path.suffix in (*PICKLES, ".safetensors") else 0
    return size
