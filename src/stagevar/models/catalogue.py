"""All models by name: what there is, where its weights come from, and how it is loaded.

A family is one file of this folder that ends with its row, a ``family.Family`` called ``FAMILY``; ``FAMILIES`` below
is the table. To add one:

1. a frozen config dataclass that refuses nonsense with ``ValueError``, and the network, a ``ScaleModel`` built by
   ``(config, name, defaults)`` that keeps ``config``; its picture tokenizer is the attribute ``tokenizer``, its blocks
   are ``blocks``;
2. ``SIZES``: per published model a ``Size`` with config, sampling defaults, ``Part``s (network and tokenizer, each its
   own repository and file), repositories of text encoders, licence;
3. ``Names``: the published tensors' names (prefix of the part included) and shapes to ours;
4. where encoders are other networks: a function that loads them, called with one source for each of ``Size.text``;
5. ``FAMILY`` at the end of the file, its module in the tuple of ``FAMILIES``, a small network in ``tiny.py``.

No function here knows a family.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from stagevar.errors import ForeignCheckpointError, MissingFileError, OptionError, UnknownModelError
from stagevar.loop.contract import Defaults, ScaleModel
from stagevar.loop.plan import Plan
from stagevar.models import hart, infinity, scenes, star, switti, var
from stagevar.models.family import Family, Part, Size, read_fields
from stagevar.models.hub import locate
from stagevar.models.weights import CONFIG, WEIGHTS, fill, load_config, read_state, save, unwrap
from stagevar.request import Request

FAMILIES: Mapping[str, Family] = {
    module.FAMILY.name: module.FAMILY for module in (scenes, var, infinity, star, switti, hart)
}

NO_WEIGHTS = "no published weights; train your own"
IN_PACKAGE = "inside the package"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One row of ``stagevar models``.

    Attributes:
        name: what ``Pipeline.from_pretrained`` takes.
        family: the file under ``stagevar.models`` that defines it.
        parameters: of the transformer.
        sources: hub repositories of all parts, or where else the weights are.
        files: of network and tokenizer inside their repositories; a slash at the end means a folder.
        licence: of the weights, as far as their authors state it.
        note: what a user should know.
    """

    name: str
    family: str
    parameters: int
    sources: tuple[str, ...]
    files: tuple[str, ...]
    licence: str
    note: str


def names() -> list[str]:
    """Of all models."""
    return [name for family in FAMILIES.values() for name in family.sizes]


def find(name: str) -> tuple[Family, Size] | None:
    """The row of a model's name, None if there is none."""
    return next(((family, family.sizes[name]) for family in FAMILIES.values() if name in family.sizes), None)


def entries() -> tuple[ModelEntry, ...]:
    """Every model that has a name, family by family."""
    return tuple(_entry(family, name) for family in FAMILIES.values() for name in family.sizes)


def _entry(family: Family, name: str) -> ModelEntry:
    size = family.sizes[name]
    published = list(dict.fromkeys([*(part.repository for part in size.parts), *size.text]))
    return ModelEntry(
        name=name,
        family=family.name,
        parameters=transformer_parameters(skeleton(name)),
        sources=(IN_PACKAGE,) if size.shipped else tuple(published) if size.parts else (NO_WEIGHTS,),
        files=(WEIGHTS,) if size.shipped else tuple(part.file for part in size.parts),
        licence=size.licence,
        note=size.note,
    )


def transformer_parameters(model: ScaleModel) -> int:
    """How many there are, the picture tokenizer's not counted."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("tokenizer."))


def on_disk(name: str) -> bool:
    """Whether network and tokenizer of a model are here, in the package or in the hub's cache."""
    found = find(name)
    if found is None:
        return False
    size = found[1]
    if size.shipped:
        return (size.shipped / WEIGHTS).exists()
    try:
        for part in size.parts:
            locate(part.repository, part.file, local_files_only=True)
    except MissingFileError:
        return False
    return bool(size.parts)


def skeleton(source: str | Path) -> ScaleModel:
    """A model on the meta device: all its shapes, none of its weights.

    Args:
        source: a name of ``entries``, or a folder with the config that ``save_model`` wrote.

    Raises:
        UnknownModelError, MissingFileError, ForeignCheckpointError
    """
    found = find(str(source))
    if found is None or (found[1].shipped and (found[1].shipped / CONFIG).exists()):
        return _folder_skeleton(_folder(source))
    family, size = found
    with torch.device("meta"):
        return family.build(size.config, str(source), size.defaults)


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
        weights: folder with a named model's published files, instead of the hub. The files of a repository may be in a
            folder of it that is named after the last part of the repository; those of text encoders have to be.
        dtype: of the transformer's blocks and the text encoder; all else is float32.
        device: where they go.
        revision: of the network's repository, as in huggingface_hub.
        local_files_only, token: as in huggingface_hub.

    Raises:
        UnknownModelError, MissingFileError, ForeignCheckpointError, ShapeError, UnsafePickleError
    """
    found = find(str(source))
    if found is None or found[1].shipped:
        if weights is not None:
            listed = ", ".join(
                name for family in FAMILIES.values() for name, size in family.sizes.items() if size.parts
            )
            raise OptionError(f"weights are given to a model of the hub ({listed}), not to {str(source)!r}")
        folder = _folder(source)
        model = _folder_skeleton(folder)
        fill(model, read_state(folder / WEIGHTS), source=folder, dtype=dtype)
        return model.to(device)
    family, size = found
    hub = {"local_files_only": local_files_only, "token": token}
    return _load_published(str(source), family, size, weights, dtype, device, revision, hub).to(device)


def _load_published(
    name: str,
    family: Family,
    size: Size,
    weights: str | Path | None,
    dtype: torch.dtype,
    device: str | torch.device,
    revision: str | None,
    hub: dict[str, Any],
) -> ScaleModel:
    """Everything is located, and the small encoders are read, before the large files are."""
    if not size.parts or family.names is None:
        raise MissingFileError(f"{name}: {NO_WEIGHTS}, or load a folder that stagevar wrote")

    def options(repository: str) -> dict[str, Any]:
        return hub | {"revision": revision if repository == size.parts[0].repository else None}

    def own(repository: str) -> Path | None:
        folder = Path(weights or "", repository.split("/")[-1])
        return folder if weights and folder.is_dir() else None

    sources = [own(part.repository) or weights or part.repository for part in size.parts]
    files = [
        locate(source, part.file, **options(part.repository)) for source, part in zip(sources, size.parts, strict=True)
    ]
    encoder = None
    if family.text is not None:
        beside = {part.repository: source for part, source in zip(size.parts, sources, strict=True)}
        readers = [own(repository) or beside.get(repository, repository) for repository in size.text]
        encoder = family.text(readers, dtype=dtype, device=device, offload=False, **options(size.text[0]))
    config = size.config if family.adapt is None else family.adapt(size.config, _settings(files[0]))
    with torch.device("meta"):
        model = family.build(config, name, size.defaults)
    state = {key: t for part, file in zip(size.parts, files, strict=True) for key, t in _tensors(part, file).items()}
    names = family.names(model)
    fill(model, state, names.rename, names.reshape, source=weights or size.parts[0].repository, dtype=dtype)
    model.text_encoder = encoder
    return model


def _settings(network: Path) -> dict[str, Any]:
    """The ``config.json`` beside published weights."""
    return load_config(network if network.is_dir() else network.parent)


def _tensors(part: Part, file: Path) -> dict[str, torch.Tensor]:
    return {part.prefix + key: tensor for key, tensor in unwrap(read_state(file), *part.inside).items()}


def _folder(source: str | Path) -> Path:
    found = find(str(source))
    shipped = None if found is None else found[1].shipped
    folder = shipped or Path(os.path.expanduser(str(source)))  # noqa: PTH111 - never raises
    if not str(source) or not os.path.isdir(folder):  # noqa: PTH112 - unlike Path.is_dir, never raises
        raise UnknownModelError(f"there is no model or folder {str(source)!r}; models are {', '.join(names())}")
    return folder


def _folder_skeleton(folder: Path) -> ScaleModel:
    config = load_config(folder)
    family = FAMILIES.get(str(config.get("family")))
    if family is None:
        raise ForeignCheckpointError(f"{folder / CONFIG} names no family ({', '.join(FAMILIES)})")
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


def save_model(model: ScaleModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
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
