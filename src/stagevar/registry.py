"""Accelerators by name: ``fastvar(keep=0.5)`` as text and as dataclass."""

from __future__ import annotations

import ast
import functools
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from importlib.metadata import entry_points
from inspect import getmembers, isclass
from types import MappingProxyType

from stagevar import accelerators
from stagevar.accelerators.base import Accelerator, Sum
from stagevar.errors import OptionError

GROUP = "stagevar.accelerators"
"""Entry points of other packages: each names an ``Accelerator`` class."""


@functools.cache
def known() -> Mapping[str, type[Accelerator]]:
    """Every accelerator class by name: the files of this package's folder, then other packages' entry points.

    Raises:
        OptionError: two classes of one name, or an entry point that is no accelerator.
    """
    found: dict[str, type[Accelerator]] = {}
    for module in pkgutil.iter_modules(accelerators.__path__, f"{accelerators.__name__}."):
        for _, cls in getmembers(import_module(module.name), isclass):
            if cls.__module__ == module.name and issubclass(cls, Accelerator) and cls not in (Accelerator, Sum):
                found[cls.name] = cls
    for entry in entry_points(group=GROUP):
        cls = entry.load()
        if not (isclass(cls) and issubclass(cls, Accelerator)):
            raise OptionError(f"entry point {entry.name} of {GROUP} is no accelerator class")
        if cls.name in found:
            raise OptionError(f"two accelerators are named {cls.name}: {found[cls.name].__module__}, {cls.__module__}")
        found[cls.name] = cls
    return MappingProxyType(dict(sorted(found.items())))


def parse(text: str | Accelerator) -> Accelerator:
    """``name``, ``name(0.5, field=value)`` or a sum of them with ``+`` to an accelerator; ``parse(str(a)) == a``.

    Raises:
        OptionError: unknown name or field, or a value that is no literal; says what there is.
    """
    if isinstance(text, Accelerator):
        return text
    if not isinstance(text, str):
        raise OptionError(f"an accelerator is given as text such as 'none', not as {type(text).__name__}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise OptionError(f"cannot read accelerator {text!r}; write name(field=value), sums with +") from None
    return _build(tree, text)


def _build(node: ast.expr, text: str) -> Accelerator:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _build(node.left, text) + _build(node.right, text)
    if isinstance(node, ast.Name):
        return _make(node.id, [], {})
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        try:
            values = [ast.literal_eval(value) for value in node.args]
            named = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in node.keywords}
        except ValueError:
            raise OptionError(f"{text!r}: values must be numbers, texts, True, False or None") from None
        return _make(node.func.id, values, named)
    raise OptionError(f"cannot read accelerator {text!r}; write name(field=value), sums with +")


def _make(name: str, values: list[object], named: dict[str, object]) -> Accelerator:
    if name not in known():
        raise OptionError(f"there is no accelerator {name!r}; there is {', '.join(known())}")
    cls = known()[name]
    allowed = [f.name for f in fields(cls)]
    unknown = [field for field in named if field not in allowed]
    if unknown or len(values) > len(allowed):
        raise OptionError(f"{name} has no such field; its fields are {', '.join(allowed) or 'none'}")
    try:
        accelerator = cls(*values, **named)
    except TypeError as error:
        raise OptionError(f"{name}: {error}") from None
    for f in fields(cls):
        value, usual = getattr(accelerator, f.name), f.default
        if usual is not MISSING and not isinstance(value, (int, float) if isinstance(usual, float) else type(usual)):
            raise OptionError(f"{name}: {f.name} must be of the kind of {usual!r}, not {value!r}")
    return accelerator
