"""Where a checkpoint keeps the tensors of one network: under which keys, and behind which prefixes of wrappers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stagevar.errors import ForeignCheckpointError, some

DEEPEST = 4
"""Levels of keys that are looked through."""

_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGE = re.compile("ema", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Nest:
    """Tensors under one path of keys.

    Attributes:
        path: the keys.
        tensors: by their names, prefixes of wrappers taken off.
    """

    path: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def __str__(self) -> str:
        return ".".join(self.path) or "the file itself"


def unwrapped(name: str) -> str:
    """A tensor's name without the prefixes that DataParallel, ``torch.compile``, FSDP and checkpointing put into it."""
    return _WRAPPER.sub("", name)


def nests(state: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Nest]:
    """All places of a checkpoint that hold tensors by name, the outer ones first."""
    tensors = {unwrapped(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if tensors:
        yield Nest(path, tensors)
    if len(path) < DEEPEST:
        for key, value in state.items():
            if isinstance(value, Mapping) and isinstance(key, str):
                yield from nests({k: v for k, v in value.items() if isinstance(k, str)}, (*path, key))


def choose(
    state: Mapping[str, Any], inside: tuple[str, ...], wanted: Callable[[str], bool], where: object
) -> Nest | None:
    """The nest that holds the tensors of one network, None if none holds any of them.

    Of several that hold as many, the one under the usual keys comes first; then a network before the moving average of
    its weights.

    Args:
        state: the checkpoint.
        inside: keys under which the authors keep the network.
        wanted: whether the network has a tensor of a published name.
        where: named in errors.

    Raises:
        ForeignCheckpointError: several that cannot be told apart hold the network; names their keys.
    """
    found = [(sum(map(wanted, nest.tensors)), nest) for nest in nests(state)]
    most = max((count for count, _ in found), default=0)
    if most == 0:
        return None
    best = [nest for count, nest in found if count == most]
    usual = [nest for nest in best if nest.path and all(key in inside for key in nest.path)]
    plain = [nest for nest in best if not any(_AVERAGE.search(key) for key in nest.path)]
    for group in (usual, plain, best):
        if len(group) == 1:
            return group[0]
        if group:
            raise ForeignCheckpointError(
                f"{where} holds the network {len(group)} times, under {some([str(nest) for nest in group])}; keep one"
            )
    return None
