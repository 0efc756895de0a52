"""Find the tensors of one network in a checkpoint, by their names and whatever keys lead to them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stagevar.errors import ForeignCheckpointError, quoted, some

DEEPEST, MOST = 6, 10_000
"""Levels of keys that are looked through, and mappings in all of them."""

_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGE = re.compile("ema|average", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Nest:
    """Tensors in one place of a checkpoint.

    Attributes:
        path: keys and beginnings of names that lead there, joined with dots; "" for the file itself.
        tensors: the tensors by the rest of their names, without prefixes of wrappers.
        keys: the file's own name of each tensor, by the same names.
    """

    path: str
    tensors: Mapping[str, Tensor]
    keys: Mapping[str, str]


def unwrapped(name: str) -> str:
    """A tensor's name without the prefixes that DataParallel, ``torch.compile``, FSDP and checkpointing put into it."""
    return _WRAPPER.sub("", name)


def nests(state: Mapping[str, Any]) -> Iterator[Nest]:
    """Every mapping of a checkpoint that holds tensors by name, outer ones first. Looks ``DEEPEST`` levels down."""
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), state)]
    seen: set[int] = set()
    for _ in range(DEEPEST + 1):
        below: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = []
        for path, mapping in level:
            if id(mapping) in seen or len(seen) == MOST:
                continue
            seen.add(id(mapping))
            named = {name: value for name, value in mapping.items() if isinstance(name, str)}
            tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
            if tensors:
                keys = {unwrapped(name): ".".join((*path, name)) for name in tensors}
                yield Nest(".".join(path), {unwrapped(name): value for name, value in tensors.items()}, keys)
            below += [((*path, name), value) for name, value in named.items() if isinstance(value, Mapping)]
        level = below


@dataclass(frozen=True, slots=True)
class _Place:
    """Names of a nest with one beginning, and how many of the network's tensors are among them."""

    nest: Nest
    prefix: str
    count: int

    @property
    def path(self) -> str:
        return ".".join(filter(None, (self.nest.path, self.prefix)))


def find(
    state: Mapping[str, Any], wanted: Callable[[str], bool], usual: str = "", chosen: str = ""
) -> tuple[Nest, list[str]] | None:
    """The nest that holds a network, and the paths of others that hold as many of its tensors; None if there are none.

    Several nests may hold the most. Of them the one under the usual path is taken, or else the only one whose path does
    not name a moving average of weights.

    Args:
        state: the checkpoint.
        wanted: whether the network has a tensor of a published name.
        usual: path under which the authors keep the network.
        chosen: path, or the end of one, that the user named; "" for none.

    Raises:
        ForeignCheckpointError: several nests remain, or none has the chosen path.
    """
    places = [place for nest in nests(state) for place in _places(nest, wanted)]
    most = max((place.count for place in places), default=0)
    best = [place for place in places if place.count == most]
    if chosen:
        group = [place for place in places if f".{place.path}".endswith(f".{chosen}")]
    else:
        plain = [place for place in best if not _AVERAGE.search(place.path)]
        group = [place for place in best if place.path == usual] or plain or best
    if not places:
        return None
    if len(group) != 1:
        many = f"the network {len(group)} times, under" if group else f"no such network under {quoted(chosen)}, only"
        paths = some([place.path or "no key" for place in group or places])
        raise ForeignCheckpointError(f"holds {many} {paths}; name one as FILE#KEY")
    others = [place.path for place in best if place is not group[0]]
    return _tensors(group[0], places, wanted), [] if chosen else others


def _places(nest: Nest, wanted: Callable[[str], bool]) -> Iterator[_Place]:
    found: Counter[str] = Counter()
    for name in nest.tensors:
        parts = name.split(".", DEEPEST)
        for depth in range(len(parts)):
            if wanted(".".join(parts[depth:])):
                found[".".join(parts[:depth])] += 1
    return (_Place(nest, prefix, count) for prefix, count in found.items())


def _tensors(place: _Place, places: list[_Place], wanted: Callable[[str], bool]) -> Nest:
    """The tensors of a place, without those of others in the same mapping."""
    begin = f"{place.prefix}." if place.prefix else ""
    rivals = tuple(f"{each.prefix}." for each in places if each.nest is place.nest and len(each.prefix) > len(begin))
    names = {
        name: name.removeprefix(begin)
        for name in place.nest.tensors
        if name.startswith(begin) and (wanted(name.removeprefix(begin)) or not name.startswith(rivals))
    }
    tensors = {rest: place.nest.tensors[name] for name, rest in names.items()}
    return Nest(place.path, tensors, {rest: place.nest.keys[name] for name, rest in names.items()})
