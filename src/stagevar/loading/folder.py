"""Reading the folders that ``save`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from stagevar.engine.contract.model import Defaults, ScaleModel
from stagevar.engine.plan.plan import Plan
from stagevar.errors import ForeignCheckpointError, MissingFileError, OptionError, first_line, quoted, some
from stagevar.families.family import CONFIG, WEIGHTS, Family, Size, without_encoder
from stagevar.families.limits import TooManyParameters
from stagevar.families.vq_names import vq_layout
from stagevar.fields import read_fields
from stagevar.files import one_name
from stagevar.loading.download import is_repository
from stagevar.loading.fill import fill
from stagevar.loading.hub import last_part
from stagevar.loading.place import Placement
from stagevar.loading.published import load_encoder
from stagevar.loading.read import load_config, read_state, require_weights
from stagevar.loading.where import Where
from stagevar.request import Request

ENTRIES = "family", "name", "config", "defaults", "text", "files"
"""What ``config.json`` holds."""


def family_of(folder: Path, families: Mapping[str, Family]) -> Family:
    """The family that a folder's ``config.json`` names.

    Raises:
        MissingFileError: there is no such file.
        ForeignCheckpointError: it names no family.
    """
    family = families.get(str(_own(folder).get("family")))
    if family is None:
        raise ForeignCheckpointError(f"{folder / CONFIG} names no family ({', '.join(families)})")
    return family


def _own(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder of ours.

    Raises:
        MissingFileError: there is no such file.
        ForeignCheckpointError: it is damaged, or has entries that this version does not know.
    """
    config = load_config(folder, once=True)
    if unknown := sorted(config.keys() - set(ENTRIES)):
        raise ForeignCheckpointError(
            f"{folder / CONFIG} has {some(map(quoted, unknown))}, which this version of stagevar does not know; "
            f"entries are {', '.join(ENTRIES)}"
        )
    return config


def folder_skeleton(folder: Path, family: Family) -> ScaleModel:
    """The model that a folder holds, on the meta device. It has at most as many parameters as the weights beside the
    config have bytes.

    Raises:
        MissingFileError: there is no config.
        ForeignCheckpointError: the config does not describe a model, or a larger one.
    """
    path, config = folder / CONFIG, _own(folder)
    weights = folder / WEIGHTS
    if weights.is_file():
        require_weights(weights)
    held = {"parameters": weights.stat().st_size} if weights.is_file() else {}  # a parameter has a byte or more
    try:
        name = config["name"]
        if not (isinstance(name, str) and one_name(name) and name.isprintable()):
            raise ValueError(f"{quoted(name)} is no name of a model")
        shape, defaults = read_fields(family.config, config["config"]), read_fields(Defaults, config["defaults"])
        model = family.outline(shape, name, defaults, **held)
        _check_defaults(model)
        model.folder = folder
    except KeyError as error:
        raise ForeignCheckpointError(f"{path} lacks {quoted(error.args[0])}; it does not describe a model") from None
    except TooManyParameters as error:
        beside = f", and {WEIGHTS} has {weights.stat().st_size} bytes; copy or download both again" if held else ""
        raise ForeignCheckpointError(f"{path} does not describe a model: {error}{beside}") from None
    except (TypeError, AttributeError, ValueError, ArithmeticError, AssertionError, RuntimeError, OptionError) as error:
        raise ForeignCheckpointError(f"{path} does not describe a model: {first_line(error)}") from None
    return model


def _check_defaults(model: ScaleModel) -> None:
    """Raise OptionError or ValueError unless the model can be sampled with its own settings."""
    sampling = {name: value for name, value in asdict(model.defaults).items() if value is not None}
    if isinstance(sampling["top_k"], tuple):
        del sampling["top_k"]  # requests have one for all scales; the plan checks those of each
    Request("defaults", guidance_scale=sampling.pop("guidance"), **sampling)
    Plan.uniform(len(model.schedule()), **asdict(model.defaults) | {"smooth": None})


def text_repositories(folder: Path, family: Family) -> tuple[str, ...]:
    """Repositories of the text encoders that a folder's config names; they are in the folder or on the hub.

    Raises:
        MissingFileError: there is no config.
        ForeignCheckpointError: the config lists another number of them, or texts that are no repositories.
    """
    listed, count = _own(folder).get("text", []), len(family.text_parameters)
    if not isinstance(listed, list) or not all(isinstance(each, str) and is_repository(each) for each in listed):
        raise ForeignCheckpointError(f"{folder / CONFIG} does not list text encoders as owner/name")
    if len(listed) not in (0, count) or len({last_part(each) for each in listed} - {CONFIG, WEIGHTS}) != len(listed):
        raise ForeignCheckpointError(f"{folder / CONFIG} lists {some(listed)}; {family.name} has {count} text encoders")
    return tuple(listed)


def load_folder(folder: Path, family: Family, where: Where, place: Placement) -> ScaleModel:
    """A model with its weights and, if the folder names any, its text encoders.

    Raises:
        MissingFileError, ForeignCheckpointError, ShapeError, MissingExtraError
    """
    model = folder_skeleton(folder, family)
    if place.encoder and without_encoder(model.config):
        raise MissingFileError(
            f"{folder} was written without the tokenizer's encoder; load the published files instead"
        )
    size = Size(model.config, text=text_repositories(folder, family))
    encoder = load_encoder(family, size, replace(where, folder=folder), place)
    how: dict[str, Any] = {"source": folder, "dtype": place.dtype, "as_stored": place.as_stored}
    fill(model, read_state(folder / WEIGHTS), reshape=_layout, quantize=place.quantize, **how)
    model.quantized, model.text_encoder = place.quantize, encoder
    return model.to(place.device)


def _layout(name: str, tensor: torch.Tensor) -> torch.Tensor:
    part, _, rest = name.partition(".")
    return vq_layout(rest, tensor) if part == "tokenizer" else tensor
