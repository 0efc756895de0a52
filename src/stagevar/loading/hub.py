"""Finding the files of a model: in local folders, in the hub's cache, or downloaded and checked against the hub's own
record of their size and hash, which huggingface_hub does not do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stagevar.errors import ForeignCheckpointError, quoted
from stagevar.files import one_name
from stagevar.untrusted import PICKLES

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

_BESIDE = {"optimizer", "optim", "opt", "scheduler", "sched", "scaler", "rng", "random", "args", "arguments", "hparams"}
"""Words in the names of files that trainers leave beside weights."""

NOT_CACHED = "not in the cache"


@dataclass(frozen=True, slots=True)
class Stored:
    """A file as the hub knows it.

    Attributes:
        size: in bytes, None if unknown.
        sha256: hash of a large file; None for others.
        sha1: hash of a small file as git's blob; None if unknown.
    """

    size: int | None = None
    sha256: str | None = None
    sha1: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds.

    Attributes:
        files: what the hub knows of each file, by its path in the repository.
        folder: the cached snapshot, if that was listed; None if the hub was.
        licence: licence that the repository's tags state; "" if unknown.
        gated: whether access to the files has to be granted.
        unreachable: why the hub was not listed, if it was asked.
    """

    files: Mapping[str, Stored]
    folder: Path | None = None
    licence: str = ""
    gated: bool = False
    unreachable: Exception | None = None


def last_part(repository: str) -> str:
    """The name of a repository without its owner, as the name of a folder.

    Raises:
        ForeignCheckpointError: it is no plain name.
    """
    name = repository.rpartition("/")[2]
    if not one_name(name):
        raise ForeignCheckpointError(f"{quoted(repository)} is no repository such as owner/name")
    return name


def is_folder(file: str) -> bool:
    """Whether a path in a repository means a folder: it ends with a slash, or is empty."""
    return not file or file.endswith("/")


def choose(paths: Iterable[str], file: str) -> list[str]:
    """The files to take from a repository; empty if it has none of them.

    Args:
        paths: all files of the repository.
        file: a file, in whose place its safetensors twin is taken; or a folder (see ``is_folder``), of which weights of
            the best kind are taken with the settings and vocabularies beside them.
    """
    paths = list(paths)
    if not is_folder(file):
        twin = str(PurePosixPath(file).with_suffix(".safetensors"))
        found = twin if twin in paths and PurePosixPath(file).suffix in PICKLES else file
        return [found] if found in paths else []
    names = [path.removeprefix(file) for path in paths if path.startswith(file)]
    names = sorted(filter(one_name, names))
    weights = weights_of(names)
    endings = {PurePosixPath(name).suffix for name in weights}
    beside = [
        name
        for name in names
        if name.endswith(WORDS) and (not (index := _indexed(name)) or index in endings) and name not in weights
    ]
    return [file + name for name in (*beside, *weights)]


def weights_of(names: Iterable[str]) -> list[str]:
    """The weights of the best kind among the names of a folder's files. Files that trainers leave beside weights
    (states of optimizers and random generators, arguments) count as weights only if there are no others."""
    every = sorted(names)
    names = [name for name in every if _BESIDE.isdisjoint(re.split("[^a-z]+", name.lower()))]
    kinds = ([name for name in some if kind.fullmatch(name)] for some in (names, every) for kind in _KINDS)
    return next(filter(None, kinds), [])


def _indexed(name: str) -> str:
    """The ending of the shards that an index lists, "" of what is no index."""
    return PurePosixPath(name.removesuffix(".index.json")).suffix if name.endswith(".index.json") else ""


def listing(
    repository: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Listing:
    """What a repository holds. The cache is listed if the hub may not be asked or gives no answer: one that is not
    about the repository, such as a limit of requests or the page of a proxy, is none.

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
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
            raise
        except Exception as error:
            unreachable = error
        else:
            stored = {each.rfilename: _stored(each) for each in info.siblings or ()}
            return Listing(stored, licence=_licence(info), gated=bool(info.gated))
    folder = _snapshot(repository, revision, cache_dir)
    if folder is None:
        raise errors.LocalEntryNotFoundError(NOT_CACHED) from unreachable
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return Listing({name: Stored(path.stat().st_size) for name, path in files.items()}, folder, unreachable=unreachable)


def _stored(sibling: Any) -> Stored:
    if sibling.lfs is None:
        return Stored(sibling.size, None, sibling.blob_id)
    return Stored(sibling.lfs.size, sibling.lfs.sha256)


def _licence(info: Any) -> str:
    tags = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return tags[0] if tags else ""


def storage_of(repository: str, cache_dir: str | Path | None) -> Path:
    """The folder of a repository in the cache."""
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HUB_CACHE, "models--" + repository.replace("/", "--"))


def _snapshot(repository: str, revision: str | None, cache_dir: str | Path | None) -> Path | None:
    """The folder of a repository's files in the cache, None if there is none."""
    storage = storage_of(repository, cache_dir)
    commit = revision or "main"
    if not all(map(one_name, commit.split("/"))):
        return None
    with suppress(OSError, UnicodeDecodeError):
        commit = (storage / "refs" / commit).read_text(encoding="utf-8").strip()
    folder = storage / "snapshots" / commit
    return folder if one_name(commit) and folder.is_dir() else None


def is_cached(repository: str, name: str, revision: str | None = None, cache_dir: str | Path | None = None) -> bool:
    """Whether a file of a repository is in the cache."""
    folder = _snapshot(repository, revision, cache_dir)
    return folder is not None and (folder / name).exists()


def free_space(folder: Path) -> tuple[Path, int]:
    """The innermost folder of a path that exists, and the bytes that are free there."""
    place = next(each for each in (folder, *folder.parents) if each.exists())
    return place, shutil.disk_usage(place).free


def status_of(error: BaseException | None) -> int:
    """The status of the answer that an error is about; 0 if it is about none."""
    return int(getattr(getattr(error, "response", None), "status_code", None) or 0)


def transient(error: Exception) -> bool:
    """Whether the connection or the server failed, so that another attempt may succeed."""
    if status := status_of(error):
        return status >= 500
    client = type(error).__module__.split(".")[0] in ("httpx2", "httpx", "httpcore", "requests", "urllib3")
    return client or "Consistency check" in str(error)
