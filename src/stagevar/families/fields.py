"""Rebuild config dataclasses from JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stagevar.errors import quoted


def read_fields(kind: type[Any], values: Any) -> Any:
    """Rebuild a dataclass that ``dataclasses.asdict`` and JSON have written: lists become tuples, and mappings become
    dataclasses.

    Raises:
        TypeError: unknown or missing fields, or a value of another kind than the field's.
        ValueError: the dataclass itself refuses the values.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{kind.__name__} is {quoted(values)}, not settings by name")
    hints = get_type_hints(kind)
    if unknown := [name for name in values if name not in hints]:
        raise TypeError(f"{kind.__name__} has no field {quoted(unknown[0])}")
    return kind(**{name: _read(name, hints[name], value) for name, value in values.items()})


def _read(name: str, hint: Any, value: Any) -> Any:
    for kind in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        if is_dataclass(kind) and isinstance(value, Mapping):
            return read_fields(kind, value)  # type: ignore[arg-type]
        if get_origin(kind) is tuple and isinstance(value, list) and len(hints := _entries(kind, value)) == len(value):
            return tuple(_read(name, each, entry) for each, entry in zip(hints, value, strict=True))
        literal = get_origin(kind) is Literal and value in get_args(kind)
        if literal or type(value) is kind or (kind is float and type(value) is int):
            return value
    raise TypeError(f"{name} is {quoted(value)}, not {getattr(hint, '__name__', hint)}")


def _entries(kind: Any, value: Sequence[Any]) -> tuple[Any, ...]:
    """The kinds of a tuple's entries."""
    first, *rest = get_args(kind)
    return (first,) * len(value) if rest == [...] else (first, *rest)
