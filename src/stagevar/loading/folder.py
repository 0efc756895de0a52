"""Folders that this package writes: ``config.json``, ``model.safetensors``, and the text encoders in the layout of
transformers, each in a folder named after the last part of its repository."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from stagevar.engine.contract.model import Defaults, ScaleModel
from stagevar.engine.plan.plan import Plan
from stagevar.errors import (
    CheckpointError,
    ForeignCheckpointError,
    MissingFileError,
    OptionError,
    OutputError,
    first_line,
)
from stagevar.families.family import CONFIG, WEIGHTS, Family, Size, TextReader, read_fields
from stagevar.families.vq_names import vq_layout
from stagevar.files import one_name, replacing, unwritable
from stagevar.loading.download import is_repository
from stagevar.loading.fill import fill
from stagevar.loading.hub import last_part
from stagevar.loading.place import Placement
from stagevar.loading.published import Where, load_encoder
from stagevar.loading.read import load_config, read_state
from stagevar.request import Request


def family_of(folder: Path, families: Mapping[str, Family]) -> Family:
    """The family that a folder's config names.

    Raises:
        MissingFileError, ForeignCheckpointError
    """
    family = families.get(str(load_config(folder).get("family")))
    if family is None:
        raise ForeignCheckpointError(f"{folder / CONFIG} names no family ({', '.join(families)})")
    return family


def folder_skeleton(folder: Path, family: Family) -> ScaleModel:
    """The model that a folder holds, on the meta device.

    Raises:
        MissingFileError, ForeignCheckpointError
    """
    config = load_config(folder)
    try:
        with torch.device("meta"):
            shape, defaults = read_fields(family.config, config["config"]), read_fields(Defaults, config["defaults"])
            model = family.build(shape, str(config["name"]), defaults)
            sampling = {name: value for name, value in asdict(model.defaults).items() if value is not None}
            if isinstance(sampling["top_k"], tuple):
                del sampling["top_k"]  # requests have one for all scales; the plan checks those of each
            Request("defaults", guidance_scale=sampling.pop("guidance"), **sampling)
            Plan.uniform(len(model.schedule()), **asdict(model.defaults) | {"smooth": None})
    except KeyError as error:
        raise ForeignCheckpointError(f"{folder / CONFIG} lacks {error}; it does not describe a model") from None
    except (TypeError, AttributeError, ValueError, ArithmeticError, AssertionError, RuntimeError, OptionError) as error:
        raise ForeignCheckpointError(f"{folder / CONFIG} does not describe a model: {error}") from None
    return model


def text_repositories(folder: Path) -> tuple[str, ...]:
    """The text encoders that a folder's config names; they are in the folder or on the hub.

    Raises:
        MissingFileError, ForeignCheckpointError
    """
    listed = load_config(folder).get("text", [])
    if not isinstance(listed, list) or not all(isinstance(each, str) and is_repository(each) for each in listed):
        raise ForeignCheckpointError(f"{folder / CONFIG} does not list text encoders as owner/name")
    return tuple(listed)


def load_folder(folder: Path, family: Family, where: Where, place: Placement) -> ScaleModel:
    """A model with its weights and, where the folder names one, its text encoder.

    Raises:
        MissingFileError, ForeignCheckpointError, ShapeError, MissingExtraError
    """
    model = folder_skeleton(folder, family)
    if place.encoder and getattr(model.config.tokenizer, "encoder", True) is False:
        raise MissingFileError(
            f"{folder} was written without the tokenizer's encoder; load the published files instead"
        )
    size = Size(model.config, text=text_repositories(folder))
    encoder = load_encoder(family, size, replace(where, folder=folder), place)
    fill(model, read_state(folder / WEIGHTS), reshape=_layout, source=folder, dtype=place.dtype)
    model.text_encoder = encoder
    return model.to(place.device)


def _layout(name: str, tensor: torch.Tensor) -> torch.Tensor:
    part, _, rest = name.partition(".")
    return vq_layout(rest, tensor) if part == "tokenizer" else tensor


def save_model(model: ScaleModel, folder: Path, dtype: torch.dtype | None = None, *, text: Sequence[str] = ()) -> None:
    """Write a model, and its text encoders if it has them, as a folder that ``sources.load`` takes.

    Args:
        model: with its weights.
        folder: is made if need be.
        dtype: of the parameters; None keeps theirs. Buffers keep their own.
        text: hub repositories of the text encoders, in order; one that the model lacks is fetched from there when the
            folder is loaded.

    Raises:
        OutputError: the folder cannot be written; no half-written weights are left.
    """
    check_target(folder)
    before = _written(folder)
    config: dict[str, Any] = {
        "family": model.family,
        "name": model.name,
        "config": asdict(model.config),
        "defaults": asdict(model.defaults),
    }
    written = {CONFIG, WEIGHTS}
    if text and model.text_encoder is not None:
        for repository, encoder in zip(text, cast(TextReader, model.text_encoder).encoders, strict=True):
            name = last_part(repository)
            written |= {f"{name}/{path}" for path in encoder.save(folder / name)}
    if text:
        config["text"] = list(text)
    config["files"] = sorted(written)
    parameters = {name: tensor.to(dtype or tensor.dtype) for name, tensor in model.named_parameters()}
    save(folder, config, {name: parameters.get(name, tensor) for name, tensor in model.state_dict().items()})
    for path in before - written:
        (folder / path).unlink(missing_ok=True)


def check_target(folder: Path) -> None:
    """Raise unless a model may be written to a folder: it is not there, is empty, or holds a model of ours.

    Raises:
        OutputError
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; choose a folder")
        if not folder.is_dir() or not any(folder.iterdir()):
            return
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        ours = "family" in load_config(folder)
    except CheckpointError:
        ours = False
    if not ours:
        raise OutputError(f"{folder} is not empty and holds no model of stagevar; choose another folder")


def _written(folder: Path) -> set[str]:
    """The files that an earlier save has written, as it noted them."""
    if not (folder / CONFIG).exists():
        return set()
    noted = load_config(folder).get("files", [])
    inside = [path for path in noted if isinstance(path, str) and all(map(one_name, path.split("/")))]
    return {
        path
        for path in inside
        if (folder / path).is_file() and (folder / path).resolve().is_relative_to(folder.resolve())
    }


def save(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors``, both or neither.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(folder / CONFIG) as config_file, replacing(folder / WEIGHTS) as weights_file:
        config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        try:
            save_file(tensors, weights_file)
        except SafetensorError as error:
            raise OutputError(f"cannot write {folder / WEIGHTS}: {first_line(error)}; free some space") from error
        weights_file.chmod(config_file.stat().st_mode)  # safetensors lets none but the owner read
