"""The table of all models by name: their shapes, the sources of their weights, and their licences.

A family is a folder here. Its row of the table is a ``family.Family`` called ``FAMILY`` in ``sizes.py``; ``FAMILIES``
below collects the rows. To add a family, write:

1. ``network.py``: a frozen config dataclass that refuses nonsense with ``ValueError``, and the network, a
   ``ScaleModel`` built by ``(config, name, defaults)`` that keeps ``config``; its picture tokenizer is the attribute
   ``tokenizer``, its blocks are ``blocks``;
2. ``names.py``: a ``family.Names``, which maps the published tensors' names (prefix of the file included) and shapes
   to ours;
3. ``sizes.py``: ``SIZES``, per model a ``Size`` with config, sampling defaults, ``File``s (network and tokenizer),
   repositories of text encoders and licence; a function that loads the text encoders, if they are separate networks; a
   small random network for tests; ``FAMILY``;
4. its module in the tuple of ``FAMILIES``.

The functions here treat all families alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stagevar.engine.contract.model import ScaleModel
from stagevar.families.family import WEIGHTS, Family, Size
from stagevar.families.hart import sizes as hart
from stagevar.families.infinity import sizes as infinity
from stagevar.families.scenes import sizes as scenes
from stagevar.families.star import sizes as star
from stagevar.families.switti import sizes as switti
from stagevar.families.var import sizes as var

FAMILIES: Mapping[str, Family] = {
    module.FAMILY.name: module.FAMILY for module in (scenes, var, infinity, star, switti, hart)
}

NO_WEIGHTS = "no published weights"
IN_PACKAGE = "inside the package"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One row of ``stagevar models``.

    Attributes:
        name: the name that ``Pipeline.from_pretrained`` takes.
        family: the folder under ``stagevar.families`` that defines the model.
        parameters: number of parameters of the transformer.
        sources: hub repositories of all parts, or ``IN_PACKAGE`` or ``NO_WEIGHTS``.
        files: paths of network and tokenizer inside their repositories; a slash at the end means a folder.
        licence: licence of the weights, as far as their authors state one.
        note: a remark for users.
    """

    name: str
    family: str
    parameters: int
    sources: tuple[str, ...]
    files: tuple[str, ...]
    licence: str
    note: str


def names() -> list[str]:
    """The names of all models."""
    return [name for family in FAMILIES.values() for name in family.sizes]


def find(name: str) -> tuple[Family, Size] | None:
    """The family and the size of the model with this name; None if no model has it."""
    return next(((family, family.sizes[name]) for family in FAMILIES.values() if name in family.sizes), None)


def published() -> list[tuple[str, Size]]:
    """All models whose weights were published."""
    return [(name, size) for family in FAMILIES.values() for name, size in family.sizes.items() if size.published]


def bare(name: str) -> ScaleModel:
    """A model of the table on the meta device: all its shapes, none of its weights."""
    family = next(family for family in FAMILIES.values() if name in family.sizes)
    return family.outline(family.sizes[name].config, name, family.sizes[name].defaults)


def entries() -> tuple[ModelEntry, ...]:
    """Every model that has a name, family by family."""
    return tuple(_entry(family, name) for family in FAMILIES.values() for name in family.sizes)


def _entry(family: Family, name: str) -> ModelEntry:
    size = family.sizes[name]
    published = list(dict.fromkeys([*(file.repository for file in size.files), *size.text]))
    return ModelEntry(
        name=name,
        family=family.name,
        parameters=transformer_parameters(bare(name)),
        sources=(IN_PACKAGE,) if size.shipped else tuple(published) if size.published else (NO_WEIGHTS,),
        files=(WEIGHTS,) if size.shipped else tuple(file.path for file in size.files if file.repository),
        licence=size.licence,
        note=size.note,
    )


def transformer_parameters(model: ScaleModel) -> int:
    """The number of a model's parameters, without those of its picture tokenizer."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("tokenizer."))
