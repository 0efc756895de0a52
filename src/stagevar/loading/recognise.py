"""Which model a checkpoint belongs to, told by the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagevar.families.catalogue import bare, find, published
from stagevar.families.family import Size
from stagevar.loading.nesting import choose


def recognise(state: Mapping[str, Any]) -> list[str]:
    """The models whose networks have exactly the tensors of a published checkpoint, by names and shapes."""
    return [name for name, size in published() if _fits(name, size, state)]


def _fits(name: str, size: Size, state: Mapping[str, Any]) -> bool:
    model, file = bare(name), size.files[0]
    found = find(name)
    assert found is not None and found[0].names is not None
    names, expected = found[0].names(model), model.state_dict()
    seen = set()
    nest = choose(state, file.inside, lambda key: names.rename(file.prefix + key) in expected, "the file")
    for key, tensor in nest.tensors.items() if nest else ():
        ours = names.rename(file.prefix + key)
        if ours is None:
            continue
        try:
            if names.reshape(ours, tensor.to("meta")).shape != expected[ours].shape:
                return False
        except (KeyError, RuntimeError, IndexError):
            return False
        seen.add(ours)
    return seen == {key for key in expected if not key.startswith("tokenizer.")}
