"""Load networks of transformers from folders that others wrote. No code from the folder runs, the hub is not contacted,
and no network is built that is larger than the folder's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stagevar.errors import ForeignCheckpointError, MissingFileError, quoted
from stagevar.families.limits import limited
from stagevar.quiet import errors_only, no_bars
from stagevar.untrusted import check_folder, read_settings

CONFIG = "config.json"

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_network(kind: Any, folder: Path, **options: Any) -> Any:
    """A network with its weights.

    Args:
        kind: class of the network, or a class of transformers that chooses it by the config.
        folder: folder that holds ``config.json`` and the weights.
        options: options of ``kind.from_pretrained``.

    Raises:
        MissingFileError, ForeignCheckpointError: files or tensors are missing or make no sense.
        Exception: transformers may raise any other error.
    """
    if not (folder / CONFIG).is_file():
        raise MissingFileError(f"there is no {CONFIG}; put the encoder's own beside its weights")
    size = check_folder(folder)
    _check_settings(folder / CONFIG, read_settings(folder / CONFIG))
    if not size:
        raise MissingFileError(f"there are no weights beside {CONFIG}")
    with errors_only("huggingface_hub", "transformers"), no_bars():
        _check_size(kind, folder, size)
        network, info = kind.from_pretrained(folder, output_loading_info=True, **_LOCAL, **options)
    # Published DINO checkpoints lack the class's pooling layer, and nothing here reads the layer's output.
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
        raise ForeignCheckpointError(f"{len(missing)} tensors missing, such as {quoted(missing[0])}")
    return network.requires_grad_(False).eval()


def load_words(kind: Any, folder: Path) -> Any:
    """A tokenizer. Errors are those of ``load_network``."""
    check_folder(folder)
    with errors_only("huggingface_hub", "transformers"):
        return kind.from_pretrained(folder, **_LOCAL)


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise if a config names a repository whose code transformers would fetch and run."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            _check_settings(path, value)
        elif name.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise ForeignCheckpointError(f"{path} asks for the code of {quoted(value)} as {name}; take that line out")


def _check_size(kind: Any, folder: Path, size: int) -> None:
    """Raise if the config describes a network of more parameters than the weights have bytes."""
    from transformers import AutoConfig

    config = (getattr(kind, "config_class", None) or AutoConfig).from_pretrained(folder, **_LOCAL)
    try:
        with limited(size), torch.device("meta"):
            kind.from_config(config, trust_remote_code=False) if hasattr(kind, "from_config") else kind(config)
    except ValueError as error:
        raise ForeignCheckpointError(f"the weights have {size} bytes, and {CONFIG} asks for more: {error}") from None
