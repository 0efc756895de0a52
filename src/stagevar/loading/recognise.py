"""Which model a checkpoint belongs to, told by the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from stagevar.errors import ForeignCheckpointError
from stagevar.families.catalogue import FAMILIES
from stagevar.loading.expected import Expected


def recognise(state: Mapping[str, Any], path: Path) -> list[str]:
    """The models whose network a checkpoint holds. If none fits exactly, those fit that differ in the number of blocks
    or classes alone.

    Args:
        state, path: the checkpoint.
    """
    rows = [
        (family.name, name, size.config)
        for family in FAMILIES.values()
        if family.names is not None
        for name, size in family.sizes.items()
    ]
    exact = [name for family, name, config in rows if _fits(family, name, config, state, path)]
    return exact or [name for family, name, config in rows if _fits_measured(family, name, config, state, path)]


@lru_cache(128)
def _expected(family: str, name: str, config: Any) -> Expected:
    return Expected(FAMILIES[family], FAMILIES[family].sizes[name], config)


def _fits(family: str, name: str, config: Any, state: Mapping[str, Any], path: Path) -> bool:
    """Whether a checkpoint holds all tensors of a model's network, and no others in its place."""
    try:
        expected = _expected(family, name, config)
        return expected.whole(expected.network(state, path))
    except (ValueError, ForeignCheckpointError):
        return False


def _fits_measured(family: str, name: str, config: Any, state: Mapping[str, Any], path: Path) -> bool:
    """Whether a checkpoint holds a model's network with another number of blocks or classes."""
    measure = FAMILIES[family].measure
    if measure is None:
        return False
    try:
        tensors = _expected(family, name, config).network(state, path).tensors
        other = measure(config, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    except (ValueError, ForeignCheckpointError):
        return False
    return other != config and _fits(family, name, other, state, path)
