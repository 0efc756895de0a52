"""Checks of files that others wrote, before they are read or given to a library that reads them."""

from __future__ import annotations

import errno
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


def read_json(path: Path, most: int, *, once: bool = True) -> Any:
    """What a JSON file holds.

    Args:
        most: largest number of bytes that the file may have.
        once: whether a name may stand only once in an object, as in files that we write.

    Raises:
        OSError: it cannot be read, or is no regular file, which may never end.
        ValueError: it is too large, no JSON, or gives a name twice.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "this is no regular file", str(path))
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most} bytes, too many for what it should be")
    try:
        return json.loads(data, object_pairs_hook=_once if once else None)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each of whose names stands once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it gives {quoted(next(name for name in names if names.count(name) > 1))} twice")
    return found


def read_settings(path: Path, most: int = LARGEST_SETTINGS, *, once: bool = False) -> dict[str, Any]:
    """Read a JSON file of settings by name.

    Args:
        most, once: as in ``read_json``.

    Raises:
        MissingFileError: the file cannot be read.
        ForeignCheckpointError: it is too large, or holds no JSON object.
    """
    try:
        settings = read_json(path, most, once=once)
    except OSError:
        raise MissingFileError(f"{path.parent} has no {path.name} that can be read") from None
    except ValueError as error:
        what = stands_for(path)
        why = f": it holds {what}" if what else f" ({first_line(error)})"
        raise ForeignCheckpointError(f"{path} is not JSON that can be read{why}; copy or download it again") from None
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
