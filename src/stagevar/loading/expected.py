"""Find the tensors of a model's network and picture tokenizer in its files, wherever the files keep them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stagevar.errors import ForeignCheckpointError, some
from stagevar.families.family import Family, Size
from stagevar.loading.fill import refuse
from stagevar.loading.nesting import Nest, find, nests

log = logging.getLogger(__name__)

NOTHING = Nest("", {}, {})


class Expected:
    """A family's network on the meta device, with the names of its tensors in published files.

    Attributes:
        model: the network.
        names: maps published names of tensors to ours.
    """

    def __init__(self, family: Family, size: Size, config: Any, name: str = "outline") -> None:
        assert family.names is not None
        self.size = size
        self.model = family.outline(config, name, size.defaults)
        self.names = family.names(self.model)
        every = self.model.state_dict()
        self._ours = [{name for name in every if name.startswith("tokenizer.") == kind} for kind in (False, True)]

    def network(self, state: Mapping[str, Any], path: Path, key: str = "", *, told: bool = False) -> Nest:
        """The nest of a checkpoint that holds the network; its largest nest if none does.

        Args:
            state, path: the checkpoint's contents and its file.
            key: key under which the user says the network is.
            told: whether a warning names other nests that hold it too.

        Raises:
            ForeignCheckpointError: several nests hold it, and none is preferred.
        """
        return self._nest(0, state, path, key, told=told)

    def tokenizer(self, state: Mapping[str, Any], path: Path) -> Nest:
        """The nest of a checkpoint that holds the picture tokenizer, found as by ``network``."""
        return self._nest(1, state, path)

    def tokenizer_inside(self, state: Mapping[str, Any], path: Path) -> Nest | None:
        """The nest of the picture tokenizer in the network's file; None unless the file holds all of it."""
        nest = self.tokenizer(state, path)
        missing = self._ours[1] - {self.ours(1, name) for name in nest.tensors}
        if missing and len(missing) < len(self._ours[1]):
            log.warning("%s: the tokenizer under %s lacks %s, and is not read", path, nest.path, some(sorted(missing)))
        return None if missing else nest

    def whole(self, network: Nest) -> bool:
        """Whether a nest has all tensors of the network, and no others, in their shapes."""
        shapes = self.model.state_dict()
        found = {self.ours(0, name): (name, tensor) for name, tensor in network.tensors.items()}
        found.pop(None, None)
        try:
            fitting = all(
                self.names.reshape(ours, tensor.to("meta")).shape == shapes[ours].shape
                for ours, (_, tensor) in found.items()
                if ours is not None
            )
        except (KeyError, RuntimeError, IndexError):
            return False
        return fitting and found.keys() == self._ours[0]

    def require(self, network: Nest, path: Path) -> None:
        """Refuse a checkpoint that lacks tensors of the network.

        Raises:
            ForeignCheckpointError
        """
        found = {name: self.ours(0, name) for name in network.tensors}
        if missing := sorted(self._ours[0] - set(found.values())):
            left = [network.keys[name] for name, ours in found.items() if ours not in (None, *self._ours[0])]
            refuse(f"{path} does not fit {type(self.model).__name__}", self._ours[0], missing, left, ())

    def ours(self, file: int, name: str) -> str | None:
        """Our name of a tensor of the network (0) or the tokenizer (1)."""
        return self.names.rename(self.size.files[file].prefix + name)

    def _wanted(self, file: int, name: str) -> bool:
        return self.ours(file, name) in self._ours[file]

    def _nest(self, file: int, state: Mapping[str, Any], path: Path, key: str = "", *, told: bool = False) -> Nest:
        found = self._find(file, state, path, key)
        if found is None:
            return max(nests(state), key=lambda nest: len(nest.tensors), default=NOTHING)
        nest, others = found
        if others and told:
            log.warning("%s: %s is read, and not %s; name it as FILE#KEY to read it", path, nest.path, some(others))
        other = self._find(1 - file, state, path)
        return nest if other is None else self._apart(file, nest, other[0])

    def _find(self, file: int, state: Mapping[str, Any], path: Path, key: str = "") -> tuple[Nest, list[str]] | None:
        usual = ".".join(self.size.files[file].inside)
        try:
            return find(state, lambda name: self._wanted(file, name), usual, key)
        except ForeignCheckpointError as error:
            raise ForeignCheckpointError(f"{path} {error}") from None

    def _apart(self, file: int, nest: Nest, other: Nest) -> Nest:
        """A nest without what belongs to the other file's, where both lie in one mapping."""
        theirs = {key for name, key in other.keys.items() if other.path != nest.path or self._wanted(1 - file, name)}
        names = [name for name in nest.tensors if nest.keys[name] not in theirs or self._wanted(file, name)]
        return Nest(nest.path, {n: nest.tensors[n] for n in names}, {n: nest.keys[n] for n in names})
