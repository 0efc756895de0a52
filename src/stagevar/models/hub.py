"""Finding the files of a model: in local folders, in the hub's cache, or downloaded and checked against the hub's own
record of their size and hash, which huggingface_hub does not do."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stagevar.errors import MissingFileError, OutputError

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
WORDS = (".json", ".txt", ".model")
"""Endings of settings and vocabularies, which a folder's weights need beside them."""

_SHARD = r"(-\d{5}-of-\d{5})?"
_KINDS = (
    re.compile(rf"model{_SHARD}\.safetensors"),
    re.compile(rf"pytorch_model{_SHARD}\.bin"),
    re.compile(r".*\.safetensors"),
    re.compile(r".*\.(pth|pt|bin|ckpt)"),
)
"""Weights of a folder, what to prefer first: the names that transformers writes, then any other."""

NOT_CACHED = "not in the cache"
ATTEMPTS = 2
BLOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class Stored:
    """A file as the hub knows it.

    Attributes:
        size: in bytes, None if unknown.
        sha256: of large files, else None.
        sha1: of git's blob, for the small files; None if unknown.
    """

    size: int | None = None
    sha256: str | None = None
    sha1: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds.

    Attributes:
        files: by path in the repository.
        folder: of the cached snapshot if that is what was listed, None if the hub was.
        licence: as the repository's card states it, "" if unknown.
    """

    files: Mapping[str, Stored]
    folder: Path | None = None
    licence: str = ""


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
        source: a local file, a local folder, or a hub repository ``owner/name``.
        file: inside ``source``; with a slash at its end a folder of it; empty means all of ``source``. A safetensors
            file of the same name is taken instead of a pickle.
        revision: branch, tag or commit of the repository.
        cache_dir: the hub's cache; by default where ``HF_HOME`` puts it.
        local_files_only: look at the cache only.
        token: for gated or private repositories.

    Raises:
        MissingFileError: neither on disk nor reachable, or damaged on the way more than once.
        OutputError: no space for it.
    """
    local = Path(source).expanduser()
    if local.is_file():
        return local
    if local.is_dir():
        return _in_folder(local, file)
    if not is_repository(source):
        raise MissingFileError(f"{source} is neither a file or folder here nor a hub repository such as owner/name")
    options = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
    return _from_hub(str(source), file, options)


def is_repository(source: str | Path) -> bool:
    """Whether a text could be the name of a hub repository."""
    named = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) is not None
    return named and PurePosixPath(str(source)).suffix not in {*PICKLES, ".safetensors"}


def _in_folder(folder: Path, file: str) -> Path:
    twin = folder / file if _is_folder(file) else (folder / file).with_suffix(".safetensors")
    found = twin if twin.exists() and PurePosixPath(file).suffix in PICKLES else folder / file
    if not found.exists():
        raise MissingFileError(f"{folder} has no {file}; it has {some(sorted(p.name for p in folder.iterdir()))}")
    return found


def _is_folder(file: str) -> bool:
    return not file or file.endswith("/")


def choose(paths: Iterable[str], file: str) -> list[str]:
    """The files to take from a repository that holds ``paths``: for a file, it or its safetensors twin; for a folder
    (slash at the end, or empty for the root), weights of the best kind with the settings and vocabularies beside them.
    Empty if there are none."""
    paths = list(paths)
    if not _is_folder(file):
        twin = str(PurePosixPath(file).with_suffix(".safetensors"))
        found = twin if twin in paths and PurePosixPath(file).suffix in PICKLES else file
        return [found] if found in paths else []
    names = [path.removeprefix(file) for path in paths if path.startswith(file)]
    names = sorted(name for name in names if "/" not in name)
    kinds = ([name for name in names if kind.fullmatch(name)] for kind in _KINDS)
    weights = next(filter(None, kinds), [])
    endings = {PurePosixPath(name).suffix for name in weights}
    beside = [
        name
        for name in names
        if name.endswith(WORDS) and (not (index := _indexed(name)) or index in endings) and name not in weights
    ]
    return [file + name for name in (*beside, *weights)]


def _indexed(name: str) -> str:
    """The ending of the shards that an index lists, "" of what is no index."""
    return PurePosixPath(name.removesuffix(".index.json")).suffix if name.endswith(".index.json") else ""


def _from_hub(repository: str, file: str, options: Mapping[str, Any]) -> Path:
    try:
        with errors_only("huggingface_hub"):
            found = listing(repository, **options)
            chosen = choose(found.files, file)
            if not chosen:
                raise MissingFileError(_absent(found, file))
            if found.folder is None:
                _check_space(repository, {name: found.files[name] for name in chosen}, options)
                paths = [_download(repository, name, found.files[name], options) for name in chosen]
            else:
                paths = [found.folder / name for name in chosen]
    except OutputError:
        raise
    except Exception as error:  # whatever the hub's client raises, the user needs the name of the file
        at = f" at revision {options['revision']}" if options["revision"] else ""
        remedy = _remedy(error, repository, file, options)
        raise MissingFileError(f"{file or 'the files'} of {repository}{at}: {remedy}") from None
    return _above(paths[0], chosen[0]) / file if _is_folder(file) else paths[0]


def _above(path: Path, name: str) -> Path:
    """The folder that holds a repository, from the path of one of its files."""
    return path.parents[len(PurePosixPath(name).parts) - 1]


def _absent(found: Listing, file: str) -> str:
    if found.folder is not None:
        return NOT_CACHED
    kind = "folder of weights" if _is_folder(file) else "file"
    return f"the repository has no such {kind}; it has {some(sorted(found.files))}"


def listing(
    repository: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Listing:
    """What a repository holds, as the hub says, or the cache if the hub is not to be asked or not to be reached.

    Raises:
        huggingface_hub's errors; LocalEntryNotFoundError if there is nothing in the cache either.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants, errors

    unreachable = None
    if not local_files_only and not constants.HF_HUB_OFFLINE:
        try:
            timeout = constants.HF_HUB_ETAG_TIMEOUT
            api = hub.HfApi(token=token)
            info = api.model_info(repository, revision=revision, timeout=timeout, files_metadata=True)
        except Exception as error:
            if not _transient(error):
                raise
            unreachable = error
        else:
            return Listing({s.rfilename: _stored(s) for s in info.siblings or ()}, licence=_licence(info))
    folder = _snapshot(repository, revision, cache_dir)
    if folder is None:
        raise errors.LocalEntryNotFoundError(NOT_CACHED) from unreachable
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return Listing({name: Stored(path.stat().st_size) for name, path in files.items()}, folder)


def _stored(sibling: Any) -> Stored:
    if sibling.lfs is None:
        return Stored(sibling.size, None, sibling.blob_id)
    return Stored(sibling.lfs.size, sibling.lfs.sha256)


def _licence(info: Any) -> str:
    tags = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return tags[0] if tags else ""


def _snapshot(repository: str, revision: str | None, cache_dir: str | Path | None) -> Path | None:
    """The folder of a repository's files in the cache, None if there is none."""
    from huggingface_hub import constants

    storage = Path(cache_dir or constants.HF_HUB_CACHE, "models--" + repository.replace("/", "--"))
    commit = revision or "main"
    with suppress(OSError):
        commit = (storage / "refs" / commit).read_text().strip()
    folder = storage / "snapshots" / commit
    return folder if folder.is_dir() else None


def is_cached(repository: str, name: str, revision: str | None = None, cache_dir: str | Path | None = None) -> bool:
    """Whether a file of a repository is in the cache."""
    folder = _snapshot(repository, revision, cache_dir)
    return folder is not None and (folder / name).exists()


def free_space(folder: Path) -> tuple[Path, int]:
    """The part of a path that exists, and the bytes free there."""
    place = next(each for each in (folder, *folder.parents) if each.exists())
    return place, shutil.disk_usage(place).free


def _check_space(repository: str, files: Mapping[str, Stored], options: Mapping[str, Any]) -> None:
    from huggingface_hub import constants

    where = options["revision"], options["cache_dir"]
    missing = sum(stored.size or 0 for name, stored in files.items() if not is_cached(repository, name, *where))
    place, free = free_space(Path(options["cache_dir"] or constants.HF_HUB_CACHE))
    if missing > free:
        raise OutputError(
            f"{repository}: {missing / 1e9:.1f} GB to download, {free / 1e9:.1f} GB free at {place}; free some space "
            "or set HF_HOME to a folder of another disk"
        )


def _download(repository: str, name: str, stored: Stored, options: Mapping[str, Any]) -> Path:
    """The path of a file in the cache. What is downloaded is compared with the hub's record of it and, if it differs or
    breaks off, fetched once more."""
    import huggingface_hub as hub

    before = hub.try_to_load_from_cache(repository, name, options["cache_dir"], options["revision"])
    trouble = ""
    for _ in range(ATTEMPTS):
        try:
            path = Path(hub.hf_hub_download(repository, name, **options))
        except Exception as error:
            if not _transient(error):
                raise
            trouble = f"the download broke off ({first_line(error)})"
            continue
        trouble = _damage(path, stored, whole=str(path) != before or bool(trouble))
        if not trouble:
            return path
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    raise MissingFileError(f"{trouble}, {ATTEMPTS} times; try again later, or check the proxy")


def _transient(error: Exception) -> bool:
    """Whether a failure is one of the connection or of the server, so that another attempt may do better."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return int(status) >= 500
    client = type(error).__module__.split(".")[0] in ("httpx2", "httpx", "httpcore", "requests", "urllib3")
    return client or "Consistency check" in str(error)


def _damage(path: Path, stored: Stored, *, whole: bool) -> str:
    """How a file differs from the hub's record, "" if it does not; its size only unless ``whole``."""
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


def _remedy(error: Exception, repository: str, file: str, options: Mapping[str, Any]) -> str:
    """What went wrong and what to do about it."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return "access has to be granted on the repository's page; then log in with `hf auth login` or pass a token"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private; log in with `hf auth login` or pass a token"
    absent = isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled)
    if absent or (isinstance(error, MissingFileError) and str(error) == NOT_CACHED):
        if options["local_files_only"] or constants.HF_HUB_OFFLINE:
            return _fetch_first(repository, file)
        return f"{NOT_CACHED}, and the hub cannot be reached; check the network, or give a folder with the files"
    if isinstance(error, errors.EntryNotFoundError):
        return "the repository has no such file"
    if isinstance(error, MissingFileError):
        return str(error)
    return f"download failed ({type(error).__name__}: {first_line(error)})"


def _fetch_first(repository: str, file: str) -> str:
    part = f" --include '{file}*'" if file.endswith("/") else f" {file}" if file else ""
    return (
        f"{NOT_CACHED}, and downloads are off; allow them, or run `hf download {repository}{part}` where there is "
        "a network"
    )


@contextmanager
def errors_only(*names: str) -> Iterator[None]:
    """Without the warnings of other packages: a retry is not the user's business, and a failure is told by us."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of several names."""
    names = list(names)
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest or "nothing"


def first_line(error: BaseException) -> str:
    """Of its message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
