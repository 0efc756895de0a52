"""Shapes of a model's parts, from which its operations are counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from stagevar.engine.contract.block import Block
from stagevar.engine.grids.rows import Role


@dataclass(frozen=True, slots=True)
class PartShape:
    """Shapes of one part of a block.

    Attributes:
        weights: weights of linear layers, applied to every row.
        text_weights: weights applied to every text token, once per image (a submodule named ``kv``).
        once_weights: weights applied to one vector per image (a submodule named ``modulation``).
        query_weights: weights that a row passes to become a query, key and value.
        width: channels of its attention, 0 if it has none.
        shared: whether one branch computes it for both.
        seen: keys of a picture that it attends to beside the text (a submodule named ``picture``).
    """

    role: Role
    weights: int
    text_weights: int
    once_weights: int
    query_weights: int
    width: int
    shared: bool
    seen: int

    @classmethod
    def of(cls, role: Role, part: nn.Module) -> PartShape:
        text, once = (weights(getattr(part, name, None) or nn.Module()) for name in ("kv", "modulation"))
        attention: Any = part
        width = 0 if role == "feed_forward" else attention.proj.in_features
        qkv = weights(getattr(part, "qkv", None) or nn.Module())
        picture: Any = getattr(part, "picture", None)
        seen, keys = (0, 0) if picture is None else (picture.states, weights(picture.kv))
        shared = getattr(part, "shared", False)
        return cls(role, weights(part) - text - keys - once, text, once, qkv, width, shared, seen)


def part_shapes(block: Block) -> tuple[PartShape, ...]:
    """The shapes of all parts of a block."""
    return tuple(PartShape.of(role, block.get_submodule(role)) for role in block.roles)


def row_flops(module: nn.Module, rows: int) -> int:
    """Operations of one row in a module whose attentions see ``rows`` rows."""
    parts: Iterator[Any] = module.modules()
    return 2 * weights(module) + 4 * rows * sum(part.proj.in_features for part in parts if hasattr(part, "heads"))


def weights(module: nn.Module) -> int:
    """Weights of all linear layers of a module."""
    return sum(linear.weight.numel() for linear in module.modules() if isinstance(linear, nn.Linear))
