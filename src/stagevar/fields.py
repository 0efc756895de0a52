"""Rebuild dataclasses from JSON, strictly: every field is of its kind, none is unknown, and no number is NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stagevar.errors import quoted


def read_fields(kind: type[Any], values: Any) -> Any:
    """Rebuild a dataclass that ``dataclasses.asdict`` and JSON have written: lists become tuples, and mappings become
    dataclasses, or stay mappings where the field is one.

    Raises:
        TypeError: unknown or missing fields, or a value of another kind than the field's.
        ValueError: a name that stands for no number, or the dataclass itself refuses the values.
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
        if get_origin(kind) is Mapping and isinstance(value, dict):
            names, entries = get_args(kind)
            return {names(key): _read(f"{name} of {key}", entries, entry) for key, entry in value.items()}
        literal = get_origin(kind) is Literal and value in get_args(kind)
        number = kind is float and (type(value) is int or (type(value) is float and math.isfinite(value)))
        if kind is Any or literal or number or (type(value) is kind and kind is not float):
            return value
    raise TypeError(f"{name} is {quoted(value)}, not {getattr(hint, '__name__', hint)}")


def _entries(kind: Any, value: Sequence[Any]) -> tuple[Any, ...]:
    """The kinds of a tuple's entries."""
    first, *rest = get_args(kind)
    return (first,) * len(value) if rest == [...] else (first, *rest)
