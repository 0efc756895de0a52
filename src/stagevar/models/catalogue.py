"""All models by name: what there is, where its weights come from, and how it is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from stagevar.errors import ForeignCheckpointError, MissingFileError, OptionError, UnknownModelError
from stagevar.loop.contract import Defaults, ScaleModel
from stagevar.loop.plan import Plan
from stagevar.models import infinity, scenes
from stagevar.models.infinity import TEXT_ENCODER
from stagevar.models.infinity_names import merged
from stagevar.models.text import T5Encoder
from stagevar.models.weights import CONFIG, WEIGHTS, fill, load_config, locate, read_state, save, unwrap
from stagevar.request import Request

SHIPPED = Path(__file__).parents[1] / "scenes" / "weights"
NO_WEIGHTS = "no published weights; train your own"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One row of ``stagevar models``.

    Attributes:
        name: what ``Pipeline.from_pretrained`` takes.
        family: the file under ``stagevar.models`` that defines it.
        parameters: of the transformer.
        source: hub repository, or where else the weights are.
        files: inside the source; a name without a suffix is a folder of shards.
        licence: of the weights, as far as their authors state it.
        note: what a user should know.
    """

    name: str
    family: str
    parameters: int
    source: str
    files: tuple[str, ...]
    licence: str
    note: str


def entries() -> tuple[ModelEntry, ...]:
    """Every model that has a name, smallest family first."""
    own = ModelEntry(
        name="scenes",
        family="scenes",
        parameters=_parameters(skeleton("scenes")),
        source="inside the package",
        files=(WEIGHTS,),
        licence="Apache-2.0",
        note="64x64 pictures of coloured shapes; runs offline",
    )
    return own, *(_infinity_entry(name, size) for name, size in infinity.SIZES.items())


def _infinity_entry(name: str, size: infinity.Size) -> ModelEntry:
    files = tuple(file for file in (size.network, size.tokenizer) if file)
    return ModelEntry(
        name=name,
        family="infinity",
        parameters=_parameters(skeleton(name)),
        source=size.repository or NO_WEIGHTS,
        files=files,
        licence="MIT (code); see the repository" if size.repository else "",
        note=f"text encoder {TEXT_ENCODER}" if size.repository else "size of the authors' training recipes",
    )


def _parameters(model: ScaleModel) -> int:
    """Parameters of the transformer, its tokenizer not counted."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("tokenizer."))


def on_disk(entry: ModelEntry) -> bool:
    """Whether all of a model's files are here, in the package or in the hub's cache."""
    if entry.source == "inside the package":
        return all((SHIPPED / file).exists() for file in entry.files)
    if not entry.files:
        return False
    try:
        for file in entry.files:
            locate(entry.source, _filename(file), local_files_only=True)
    except MissingFileError:
        return False
    return True


def skeleton(source: str | Path) -> ScaleModel:
    """A model on the meta device: all its shapes, none of its weights.

    Args:
        source: a name of ``entries``, or a folder with the config that ``save_model`` wrote.

    Raises:
        UnknownModelError, MissingFileError, ForeignCheckpointError
    """
    name = str(source)
    with torch.device("meta"):
        if name in infinity.SIZES:
            size = infinity.SIZES[name]
            return infinity.Infinity(size.config, name, size.defaults)
        if name == "scenes" and not (SHIPPED / CONFIG).exists():
            return scenes.Scenes(scenes.ScenesConfig())
        return _folder_skeleton(_folder(source))


def load(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    local_files_only: bool = False,
    token: str | None = None,
) -> ScaleModel:
    """A model with its weights, frozen.

    Args:
        source: a name of ``entries``, or a folder that ``save_model`` wrote.
        weights: folder with a named model's published files, instead of the hub. It may hold the text encoder in a
            folder named after the last part of its repository.
        dtype: of the transformer's blocks and the text encoder; all else is float32.
        device: where they go.
        revision, local_files_only, token: as in huggingface_hub.

    Raises:
        UnknownModelError, MissingFileError, ForeignCheckpointError, ShapeError, UnsafePickleError
    """
    name = str(source)
    if weights is not None and name not in infinity.SIZES:
        raise OptionError(f"weights are given to a model of the hub ({', '.join(infinity.SIZES)}), not to {name!r}")
    if name in infinity.SIZES:
        hub = {"revision": revision, "local_files_only": local_files_only, "token": token}
        return _load_infinity(name, weights, dtype, device, hub).to(device)
    folder = _folder(source)
    model = _folder_skeleton(folder)
    fill(model, read_state(folder / WEIGHTS), source=folder, dtype=dtype)
    return model.to(device)


def _load_infinity(
    name: str, weights: str | Path | None, dtype: torch.dtype, device: str | torch.device, hub: dict[str, Any]
) -> ScaleModel:
    size = infinity.SIZES[name]
    source = weights or size.repository
    if source is None or size.network is None or size.tokenizer is None:
        raise MissingFileError(f"{name}: {NO_WEIGHTS}, or load a folder that stagevar wrote")
    files = [locate(source, _filename(file), **hub) for file in (size.network, size.tokenizer)]
    beside = Path(weights or "", TEXT_ENCODER.split("/")[-1])
    text_source = beside if weights and beside.is_dir() else TEXT_ENCODER
    text_encoder = T5Encoder.from_pretrained(text_source, dtype=dtype, device=device, **hub | {"revision": None})
    network, tokenizer = map(read_state, files)
    model = skeleton(name)
    assert isinstance(model, infinity.Infinity)
    names = model.checkpoint_names
    state = merged(unwrap(network, "trainer", "gpt_fsdp"), unwrap(tokenizer, "vae"))
    fill(model, state, names.rename, names.reshape, source=source, dtype=dtype)
    model.text_encoder = text_encoder
    return model


def _filename(file: str) -> str:
    return file if "." in file else f"{file}/"


def _build_scenes(config: dict[str, Any]) -> ScaleModel:
    shape, sampling = _tuples(config["config"]), _tuples(config["defaults"])
    return scenes.Scenes(scenes.ScenesConfig(**shape), str(config["name"]), Defaults(**sampling))


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


_BUILDERS: dict[str, Callable[[dict[str, Any]], ScaleModel]] = {"scenes": _build_scenes}
"""Families that this package writes as folders."""


def _folder(source: str | Path) -> Path:
    name = str(source)
    folder = SHIPPED if name == "scenes" else Path(os.path.expanduser(name))  # noqa: PTH111 - never raises
    if not name or not os.path.isdir(folder):  # noqa: PTH112 - unlike Path.is_dir, never raises
        known = ", ".join(["scenes", *infinity.SIZES])
        raise UnknownModelError(f"there is no model or folder {name!r}; models are {known}")
    return folder


def _folder_skeleton(folder: Path) -> ScaleModel:
    config = load_config(folder)
    builder = _BUILDERS.get(str(config.get("family")))
    if builder is None:
        raise ForeignCheckpointError(
            f"{folder / CONFIG} names no family that can be loaded from a folder ({', '.join(_BUILDERS)})"
        )
    try:
        with torch.device("meta"):
            model = builder(config)
            sampling = {name: value for name, value in asdict(model.defaults).items() if value is not None}
            Request("defaults", guidance_scale=sampling.pop("guidance"), **sampling)
            Plan.uniform(len(model.schedule()), **asdict(model.defaults))
    except KeyError as error:
        raise ForeignCheckpointError(f"{folder / CONFIG} lacks {error}; it does not describe a model") from None
    except (TypeError, AttributeError, ValueError, ArithmeticError, AssertionError, RuntimeError, OptionError) as error:
        raise ForeignCheckpointError(f"{folder / CONFIG} does not describe a model: {error}") from None
    return model


def save_model(model: scenes.Scenes, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a model as a folder that ``load`` takes: parameters in ``dtype``, the tokenizer's tables in float32.

    Raises:
        OutputError: the folder cannot be written; nothing half-written is left.
    """
    config = {
        "family": model.family,
        "name": model.name,
        "config": asdict(model.config),
        "defaults": asdict(model.defaults),
    }
    parameters = {name: tensor.to(dtype) for name, tensor in model.named_parameters()}
    save(folder, config, dict(model.named_buffers()) | parameters)
