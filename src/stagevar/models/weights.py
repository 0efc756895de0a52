"""Checkpoints: finding them, reading them without running their code, and filling a network once."""

from __future__ import annotations

import json
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stagevar.errors import ForeignCheckpointError, MissingFileError, OutputError, ShapeError, UnsafePickleError
from stagevar.files import replacing

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PICKLES = (".pth", ".pt", ".bin", ".ckpt")


def locate(
    source: str | Path,
    filename: str | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The path of a file or folder of weights, downloaded to the hub's cache if need be.

    Args:
        source: a local file, a local folder, or a hub repository ``owner/name``.
        filename: a file inside ``source``; with a slash at its end a folder of it; None means all of ``source``.
        revision: branch, tag or commit of the repository.
        cache_dir: the hub's cache; by default where ``HF_HOME`` puts it.
        local_files_only: look at the cache only.
        token: for gated or private repositories.

    Raises:
        MissingFileError: neither on disk nor reachable.
    """
    local = Path(source).expanduser()
    if local.is_file():
        return local
    if local.is_dir():
        found = local / (filename or "")
        if not found.exists():
            raise MissingFileError(
                f"{local} has no {filename}; it has {_some(sorted(p.name for p in local.iterdir()))}"
            )
        return found
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) or local.suffix in {*PICKLES, ".safetensors"}:
        raise MissingFileError(f"{source} is neither a file or folder here nor a hub repository such as owner/name")
    return _from_hub(
        str(source),
        filename,
        {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only, "token": token},
    )


def _from_hub(repo: str, filename: str | None, options: dict[str, Any]) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    what = f"{filename or 'the files'} of {repo}"
    wanted = None if filename is None else f"{filename}*"
    if options["revision"]:
        what += f" at revision {options['revision']}"
    try:
        with errors_only("huggingface_hub"):
            if filename is not None and not filename.endswith("/"):
                return Path(hub.hf_hub_download(repo, filename, **options))
            found = Path(hub.snapshot_download(repo, allow_patterns=wanted, **options), filename or "")
        if found.is_dir():
            return found
        remedy = "the repository has no such folder, or it is not in the cache"
    except errors.GatedRepoError:
        remedy = "access has to be granted on the repository's page; then log in with `hf auth login` or pass a token"
    except errors.RevisionNotFoundError:
        remedy = "the repository has no such revision"
    except errors.RepositoryNotFoundError:
        remedy = "there is no such repository, or it is private; log in with `hf auth login` or pass a token"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        offline = options["local_files_only"] or hub.constants.HF_HUB_OFFLINE
        part = f" --include '{wanted}'" if filename and filename.endswith("/") else f" {filename}" if filename else ""
        command = f"hf download {repo}{part}"
        remedy = (
            f"not in the cache, and downloads are off; allow them, or run `{command}` where there is a network"
            if offline
            else "not in the cache, and the hub cannot be reached; check the network, or give a folder with the files"
        )
    except errors.EntryNotFoundError:
        remedy = "the repository has no such file"
    except Exception as error:  # whatever the hub's client raises, the user needs the name of the file
        remedy = f"download failed ({type(error).__name__}: {_first_line(error)})"
    raise MissingFileError(f"{what}: {remedy}")


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


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, memory-mapped where the format allows it.

    Args:
        path: a ``.safetensors`` file, a pickle written by ``torch.save``, a folder with one of them, or a folder
            of shards with its ``*.index.json``.

    Returns:
        Tensors by name; pickles may nest them (see ``unwrap``).

    Raises:
        MissingFileError, ForeignCheckpointError, UnsafePickleError
    """
    if path.is_dir():
        path = _main_file(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _read_pickle(path)
    raise ForeignCheckpointError(f"{path} is not a checkpoint; expected .safetensors or one of {', '.join(PICKLES)}")


def _main_file(folder: Path) -> Path:
    """The one file of a folder that stands for all its weights."""
    for pattern in ("*.safetensors.index.json", "*.index.json", WEIGHTS, "*.safetensors", *(f"*{p}" for p in PICKLES)):
        if len(found := sorted(folder.glob(pattern))) == 1:
            return found[0]
    raise MissingFileError(f"{folder} holds no weights, or several files of them; give the file itself")


def _read_shards(index: Path) -> dict[str, Any]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ForeignCheckpointError(f"{index} is not an index of shards; download it again") from None
    if strays := [name for name in names if Path(name).name != name]:
        raise ForeignCheckpointError(f"{index} points outside its folder ({strays[0]})")
    if missing := [name for name in names if not (index.parent / name).exists()]:
        raise MissingFileError(f"{index.parent} lacks {len(missing)} of {len(names)} shards: {_some(missing)}")
    state: dict[str, Any] = {}
    for name in names:
        state |= read_state(index.parent / name)
    return state


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except PermissionError as error:
        raise MissingFileError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except (SafetensorError, OSError) as error:
        raise ForeignCheckpointError(f"{path} is truncated or no safetensors file ({_first_line(error)})") from None


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickle protocols and storage classes of old files
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a broken pickle can raise anything
        if culprit := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UnsafePickleError(
                f"{path} would have to run code to load ({culprit[1]}); if you trust it, convert it to safetensors "
                "elsewhere and load that"
            ) from None
        raise ForeignCheckpointError(
            f"{path} is truncated or no checkpoint ({type(error).__name__}); download it again"
        ) from None
    if not isinstance(state, dict):
        raise ForeignCheckpointError(f"{path} holds a {type(state).__name__}, not tensors by name")
    return state


def unwrap(state: Mapping[str, Any], *keys: str) -> dict[str, Tensor]:
    """The tensors under a path of keys, each followed where present: ``unwrap(state, "trainer", "gpt_fsdp")``.

    What is no tensor there (step counters, settings) is dropped.
    """
    for key in keys:
        if isinstance(inner := state.get(key), Mapping):
            state = inner
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def renamed(key: str, names: Mapping[str, str]) -> str:
    """The key with its leading module path replaced, if ``names`` has it."""
    for old, new in names.items():
        if key == old or key.startswith(old + "."):
            return new + key[len(old) :]
    return key


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    rename: Callable[[str], str | None] | None = None,
    reshape: Callable[[str, Tensor], Tensor] | None = None,
    source: str | Path = "",
    dtype: torch.dtype | None = None,
) -> None:
    """Give a network, which may be on the meta device, the tensors of a checkpoint; then freeze it.

    Args:
        module: the network.
        state: tensors by the checkpoint's names.
        rename: the checkpoint's name to ours, or None to leave the tensor out.
        reshape: our name and the tensor to the tensor in our layout.
        source: named in errors.
        dtype: of the parameters under ``blocks.``; all others, and all buffers of real numbers, are float32.

    Raises:
        ForeignCheckpointError: tensors missing or left over.
        ShapeError: a tensor of another shape, or integers where real numbers belong.
    """
    expected = module.state_dict()
    found: dict[str, Tensor] = {}
    left_over: list[str] = []
    for theirs, tensor in state.items():
        ours = theirs if rename is None else rename(theirs)
        if ours is None:
            continue
        if ours not in expected or ours in found:
            left_over.append(theirs)
            continue
        found[ours] = _reshaped(reshape, ours, tensor)
    _check(module, expected, found, left_over, str(source) or "the checkpoint")
    compute = {name for name, _ in module.named_parameters(remove_duplicate=False) if name.startswith("blocks.")}
    for name, tensor in found.items():
        floating = expected[name].is_floating_point()
        target = (dtype or torch.float32) if name in compute else torch.float32
        found[name] = tensor.to(target if floating else expected[name].dtype)
    module.load_state_dict(found, assign=True)
    if empty := [name for name, t in chain(module.named_parameters(), module.named_buffers()) if t.is_meta]:
        raise ValueError(f"{_some(empty)}: not part of any checkpoint, so it must be built outside the meta device")
    module.requires_grad_(False).eval()


def _reshaped(reshape: Callable[[str, Tensor], Tensor] | None, name: str, tensor: Tensor) -> Tensor:
    if reshape is None:
        return tensor
    try:
        return reshape(name, tensor)
    except (RuntimeError, IndexError):  # it does not fit; the check of shapes says so with both shapes
        return tensor


def _check(
    module: nn.Module,
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    left_over: list[str],
    source: str,
) -> None:
    missing = [name for name in expected if name not in found]
    misfits = [
        f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not real numbers"
        for name, tensor in found.items()
        if expected[name].is_floating_point() and not tensor.is_floating_point()
    ] + [
        f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in found.items()
        if tensor.shape != expected[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(expected)} tensors missing ({_some(missing)})")
    if left_over:
        problems.append(f"{len(left_over)} left over ({_some(left_over)})")
    if misfits:
        problems.append(f"{len(misfits)} of another shape or kind ({_some(misfits)})")
    if problems:
        kind = ForeignCheckpointError if missing or left_over else ShapeError
        raise kind(f"{source} does not fit {type(module).__name__}: {', '.join(problems)}; check model and size")


def save(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors``, both or neither.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(folder / CONFIG) as config_file, replacing(folder / WEIGHTS) as weights_file:
        config_file.write_text(json.dumps(config, indent=2) + "\n")
        try:
            save_file(tensors, weights_file)
        except SafetensorError as error:
            raise OutputError(f"cannot write {folder / WEIGHTS}: {_first_line(error)}; free some space") from error
        weights_file.chmod(config_file.stat().st_mode)  # safetensors lets none but the owner read


def load_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder that ``save`` wrote.

    Raises:
        MissingFileError, ForeignCheckpointError
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except OSError:
        raise MissingFileError(f"{folder} has no {CONFIG} that can be read, so it is not a folder of a model") from None
    except (ValueError, RecursionError) as error:
        raise ForeignCheckpointError(f"{path} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ForeignCheckpointError(f"{path} holds a {type(config).__name__}, not settings by name")
    return config


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest or "nothing"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
