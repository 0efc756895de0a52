"""The path of a file of weights, downloaded and checked if need be."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from stagevar.errors import MissingFileError, OutputError, quoted, some
from stagevar.files import one_name, require_place
from stagevar.loading.explained import ELSEWHERE, explained, told
from stagevar.loading.hub import (
    NOT_CACHED,
    Listing,
    Stored,
    choose,
    free_space,
    is_cached,
    is_folder,
    listing,
    storage_of,
    transient,
)
from stagevar.untrusted import PICKLES

log = logging.getLogger(__name__)

ATTEMPTS = 2
"""Downloads of one file before it is given up."""

BLOCK = 1 << 24
"""Bytes that are hashed at a time."""


def locate(
    source: str | Path,
    file: str = "",
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The path of a file or folder of weights, downloaded to the hub's cache if need be.

    Args:
        source: a ``Path`` is a local folder or file, a text is a hub repository ``owner/name``.
        file: path inside ``source``; ends with a slash for a folder; empty for all of ``source``. A safetensors file of
            the same name is taken instead of a pickle.
        revision: branch, tag or commit of the repository.
        cache_dir: the hub's cache; by default where ``HF_HOME`` puts it.
        local_files_only: look at the cache only.
        token: for gated or private repositories.

    Raises:
        MissingFileError: the file is neither on disk nor reachable, or every download of it was damaged.
        OutputError: there is no space for it.
    """
    if isinstance(source, Path):
        return _in_folder(source.expanduser(), file)
    if not is_repository(source):
        raise MissingFileError(f"{quoted(source)} is no hub repository such as owner/name")
    options = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
    return _from_hub(source, file, options)


def to_download(source: str | Path, file: str, **options: Any) -> int:
    """Number of bytes that ``locate`` would download; downloads nothing.

    Args:
        source, file, options: as ``locate`` takes them.

    Raises:
        MissingFileError: a file is missing, or its repository gated or out of reach.
    """
    if isinstance(source, Path):
        _in_folder(source, file)
        return 0
    given = {"revision": None, "cache_dir": None, "local_files_only": False, "token": None} | options
    with explained(source, file, given):
        found, chosen = _wanted(source, file, given)
    return 0 if found.folder is not None else _missing(source, {name: found.files[name] for name in chosen}, given)


def holds(repository: str, file: str, **options: Any) -> bool:
    """Whether a repository has a file or a folder of weights; False too if that cannot be found out."""
    try:
        to_download(repository, file, **options)
    except MissingFileError:
        return False
    return True


def is_here(source: str | Path, file: str) -> bool:
    """Whether a file or a folder of weights is in a local folder."""
    try:
        return isinstance(source, Path) and _in_folder(source, file).exists()
    except MissingFileError:
        return False


def is_repository(text: str) -> bool:
    """Whether a text could be the name of a hub repository."""
    named = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text) is not None
    return named and all(map(one_name, text.split("/"))) and not text.endswith((*PICKLES, ".safetensors"))


def _in_folder(folder: Path, file: str) -> Path:
    if folder.is_file():
        return folder
    if not folder.is_dir():
        raise MissingFileError(f"there is no file or folder {folder}")
    twin = folder / file if is_folder(file) else (folder / file).with_suffix(".safetensors")
    found = twin if twin.exists() and PurePosixPath(file).suffix in PICKLES else folder / file
    if found.is_symlink() and not found.exists():
        raise MissingFileError(f"{found} is a link that leads nowhere; copy the file itself")
    if not found.exists():
        raise MissingFileError(f"{folder} has no {file}; it has {some(sorted(p.name for p in folder.iterdir()))}")
    return found


def _from_hub(repository: str, file: str, options: Mapping[str, Any]) -> Path:
    with explained(repository, file, options):
        found, chosen = _wanted(repository, file, options)
        if found.folder is None:
            missing = _missing(repository, {name: found.files[name] for name in chosen}, options)
            require_space(missing, repository, options["cache_dir"])
            paths = [_download(repository, name, found.files[name], options) for name in chosen]
        else:
            paths = [found.folder / name for name in chosen]
    return _above(paths[0], chosen[0]) / file if is_folder(file) else paths[0]


def _wanted(repository: str, file: str, options: Mapping[str, Any]) -> tuple[Listing, list[str]]:
    """What a repository holds, and the files of it that are to be had.

    Raises:
        MissingFileError, and the errors of the hub's client: they are not there, or access is not granted.
    """
    import huggingface_hub as hub

    found = listing(repository, **options)
    chosen = choose(found.files, file)
    if not chosen:
        raise MissingFileError(_absent(found, file)) from found.unreachable
    where = options["revision"], options["cache_dir"]
    if found.gated and not all(is_cached(repository, name, *where) for name in chosen):
        hub.HfApi(token=options["token"]).auth_check(repository)
    return found, chosen


def _above(path: Path, name: str) -> Path:
    """The folder that holds a repository, from the path of one of its files."""
    return path.parents[len(PurePosixPath(name).parts) - 1]


def _absent(found: Listing, file: str) -> str:
    if found.folder is not None:
        return NOT_CACHED
    kind = "folder of weights" if is_folder(file) else "file"
    return f"the repository has no such {kind}; it has {some(sorted(found.files))}"


def _missing(repository: str, files: Mapping[str, Stored], options: Mapping[str, Any]) -> int:
    """The bytes of the files that are not in the cache."""
    where = options["revision"], options["cache_dir"]
    return sum(stored.size or 0 for name, stored in files.items() if not is_cached(repository, name, *where))


def require_space(missing: int, what: str, cache_dir: str | Path | None = None) -> None:
    """Check that there is space for a download.

    Args:
        missing: bytes to download.
        what: name of what is downloaded, for the message.
        cache_dir: the hub's cache; by default where ``HF_HOME`` puts it.

    Raises:
        OutputError: there is less space, or none that can be written to.
    """
    from huggingface_hub import constants

    if not missing:
        return
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    try:
        require_place(cache, folder=True)
    except OutputError:
        raise OutputError(f"{what}: the cache {cache} cannot be written to; {ELSEWHERE}") from None
    place, free = free_space(cache)
    if missing > free:
        raise OutputError(
            f"{what}: {missing / 1e9:.1f} GB to download, {free / 1e9:.1f} GB free at {place}; {ELSEWHERE}"
        )


def _download(repository: str, name: str, stored: Stored, options: Mapping[str, Any]) -> Path:
    """The path of a file in the cache. What is downloaded is compared with the hub's record of it and, if it differs or
    breaks off, fetched once more."""
    import huggingface_hub as hub

    storage = storage_of(repository, options["cache_dir"])
    before = hub.try_to_load_from_cache(repository, name, options["cache_dir"], options["revision"])
    trouble = ""
    for _ in range(ATTEMPTS):
        try:
            path = Path(hub.hf_hub_download(repository, name, **options))
        except Exception as error:
            if not transient(error):
                raise
            trouble = f"the download broke off ({told(error)})"
            continue
        trouble = _damage(path, stored, whole=str(path) != before or bool(trouble))
        if not trouble:
            return path
        _discard(path, storage)
    raise MissingFileError(f"{trouble}, {ATTEMPTS} times; try again later, or check the proxy")


def _discard(path: Path, storage: Path) -> None:
    """Remove a damaged file from a repository's folder in the cache: the snapshot's link, and what it leads to unless
    that is a file elsewhere, which is the user's own."""
    stored, own = path.resolve(), (storage.resolve(), (storage / "blobs").resolve())
    if any(stored.is_relative_to(folder) for folder in own):
        stored.unlink(missing_ok=True)
    elif not path.is_symlink():
        raise MissingFileError(f"{path} is damaged and lies outside of the cache; remove it to have it downloaded")
    else:
        log.warning("%s was a link to %s, which is damaged; the link is replaced, the file is kept", path, stored)
    path.unlink(missing_ok=True)


def _damage(path: Path, stored: Stored, *, whole: bool) -> str:
    """What is wrong with a downloaded file, or "". Compares sizes; with ``whole`` hashes too."""
    size = path.stat().st_size
    if stored.size is not None and size != stored.size:
        return f"the file has {size} bytes of {stored.size}"
    expected = stored.sha256 or stored.sha1
    if not whole or expected is None:
        return ""
    digest = hashlib.sha256() if stored.sha256 else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return "" if digest.hexdigest() == expected else f"the file is damaged ({digest.name} differs from the hub's)"
