"""Writing a model as a folder that loads by itself.

It holds ``config.json``, ``model.safetensors``, and the text encoders in the layout of transformers, each in a folder
named after the last part of its repository.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import CheckpointError, OptionError, OutputError, first_line
from stagevar.families.catalogue import FAMILIES
from stagevar.families.family import CONFIG, WEIGHTS, TextReader
from stagevar.files import one_name, renewing, unwritable
from stagevar.loading.folder import family_of, text_repositories
from stagevar.loading.hub import last_part
from stagevar.loading.read import load_config


def save_model(model: ScaleModel, folder: Path, dtype: torch.dtype | None = None, *, text: Sequence[str] = ()) -> None:
    """Write a model, and its text encoders if it has them, as a folder that ``sources.load`` takes.

    Args:
        model: with its weights.
        folder: a new or empty one, or one that holds a model of ours, whose files are replaced; other files stay.
        dtype: of the parameters; None keeps theirs. Buffers keep their own.
        text: hub repositories of the text encoders, in order; one that the model lacks is fetched from there when the
            folder is loaded.

    Raises:
        OutputError: the folder cannot be written; it is left as it was.
        OptionError: the network is on several devices.
    """
    if any(hasattr(parameter, "placements") for parameter in model.parameters()):
        raise OptionError(f"this process has only a part of model {model.name}; load it without tensor_parallel")
    config: dict[str, Any] = {
        "family": model.family,
        "name": model.name,
        "config": asdict(model.config),
        "defaults": asdict(model.defaults),
    }
    if text:
        config["text"] = list(text)
    cast_too = {name for name, _ in model.named_parameters()}
    state = {name: each.to(dtype) if dtype and name in cast_too else each for name, each in model.state_dict().items()}
    try:
        with renewing(folder, own_files(folder)) as fresh:
            if text and model.text_encoder is not None:
                for repository, encoder in zip(text, cast(TextReader, model.text_encoder).encoders, strict=True):
                    encoder.save(fresh / last_part(repository))
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, fresh / WEIGHTS)
            written = [path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file()]
            config["files"] = sorted([CONFIG, *written])
            (fresh / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            (fresh / WEIGHTS).chmod((fresh / CONFIG).stat().st_mode)  # safetensors lets none but the owner read
    except SafetensorError as error:
        raise OutputError(f"cannot write {folder / WEIGHTS}: {first_line(error)}; free some space") from error


def own_files(folder: Path) -> frozenset[str]:
    """The files of a folder that an earlier ``save_model`` wrote, by their paths in it.

    Raises:
        OutputError: a model cannot be written there: it is a file, or holds other things and no model of ours.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; choose a folder")
        if not folder.is_dir() or not any(folder.iterdir()):
            return frozenset()
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        config = load_config(folder)
        encoders = {last_part(repository) for repository in text_repositories(folder, family_of(folder, FAMILIES))}
    except CheckpointError:
        config = {}
    if not {"family", "name", "config", "defaults"} <= config.keys():
        raise OutputError(f"{folder} is not empty and holds no model of stagevar; choose another folder")
    noted = config.get("files")
    paths = [path.split("/") for path in noted if isinstance(path, str)] if isinstance(noted, list) else []
    inside = {"/".join(parts) for parts in paths if parts[0] in encoders and all(map(one_name, parts))}
    return frozenset({CONFIG, WEIGHTS} | inside)
