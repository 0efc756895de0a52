"""Accelerators by name: from the text ``drop_last(2)`` to the dataclass ``DropLast(n=2)``."""

from __future__ import annotations

import ast
import functools
import pkgutil
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from inspect import getmembers, isclass
from types import MappingProxyType

from stagevar import accelerators
from stagevar.accelerators.base import AXES, Accelerator, Claim, Sum
from stagevar.errors import OptionError, first_line, quoted

GROUP = "stagevar.accelerators"
"""Entry points of other packages: each names an ``Accelerator`` class."""

LONGEST_TEXT, MOST_PARTS, LARGEST = 2000, 16, 2**53
"""Limits of an accelerator's text: its characters, the parts of a sum, and the size of a number in it."""


@functools.cache
def _found() -> tuple[Mapping[str, type[Accelerator]], Mapping[str, str]]:
    """Accelerator classes by name, and by origin why a plug-in was left out."""
    found: dict[str, type[Accelerator]] = {}
    broken: dict[str, str] = {}
    for module in pkgutil.iter_modules(accelerators.__path__, f"{accelerators.__name__}."):
        try:
            classes = [
                cls for _, cls in getmembers(import_module(module.name), isclass) if cls.__module__ == module.name
            ]
        except Exception as error:  # a file that somebody has put there must not break a plain run
            broken[module.name] = f"{type(error).__name__}: {first_line(error)[:LONGEST_TEXT]}"
            continue
        for cls in classes:
            if issubclass(cls, Accelerator) and cls not in (Accelerator, Sum):
                _enter(cls, module.name, found, broken)
    for entry in entry_points(group=GROUP):
        try:
            cls = entry.load()
        except Exception as error:
            broken[entry.value] = f"{type(error).__name__}: {first_line(error)[:LONGEST_TEXT]}"
            continue
        if isclass(cls) and issubclass(cls, Accelerator):
            _enter(cls, entry.value, found, broken)
        else:
            broken[entry.value] = "it is no Accelerator class"
    return MappingProxyType(dict(sorted(found.items()))), MappingProxyType(broken)


def _enter(cls: type[Accelerator], origin: str, found: dict[str, type[Accelerator]], broken: dict[str, str]) -> None:
    """Add a class under its own name, unless it has none or another class has it."""
    name = cls.__dict__.get("name", "")
    if not isinstance(name, str) or not name.isidentifier():
        broken[f"{origin}.{cls.__name__}"] = "it has no name of its own; set name: ClassVar[str]"
    elif not isinstance(cls.owns, frozenset) or not cls.owns <= set(AXES):
        broken[f"{origin}.{cls.__name__}"] = f"owns must be a frozenset of {', '.join(AXES)}"
    elif not isinstance(cls.claims, tuple) or not all(isinstance(claim, Claim) for claim in cls.claims):
        broken[f"{origin}.{cls.__name__}"] = "claims must be a tuple of Claim"
    elif name in found:
        broken[f"{origin}.{cls.__name__}"] = f"the name {name} is taken by {found[name].__module__}"
    else:
        found[name] = cls


def known() -> Mapping[str, type[Accelerator]]:
    """Every accelerator class by name: the files of this package's folder, then other packages' entry points."""
    return _found()[0]


def broken() -> Mapping[str, str]:
    """Plug-ins that were left out, by file or entry point, and why."""
    return _found()[1]


def parse(text: str | Accelerator) -> Accelerator:
    """``name``, ``name(0.5, field=value)`` or a sum of them with ``+`` to an accelerator; ``parse(str(a)) == a``.

    Raises:
        OptionError: unknown name or field, or a value that is no literal; says what there is.
    """
    if isinstance(text, Accelerator):
        return text
    if not isinstance(text, str):
        raise OptionError(f"an accelerator is given as text such as 'none', not as {quoted(text)}")
    if len(text) > LONGEST_TEXT or text.count("+") >= MOST_PARTS:
        raise OptionError(
            f"an accelerator has at most {LONGEST_TEXT} characters and {MOST_PARTS} parts, unlike {quoted(text)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise OptionError(f"cannot read accelerator {quoted(text)}; write name(field=value), sums with +") from None
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
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise OptionError(f"{quoted(text)}: values must be numbers, texts, True, False or None") from None
        if len(named) < len(node.keywords):
            raise OptionError(f"{quoted(text)} gives a field twice")
        return _make(node.func.id, values, named)
    raise OptionError(f"cannot read accelerator {quoted(text)}; write name(field=value), sums with +")


def _make(name: str, values: list[object], named: dict[str, object]) -> Accelerator:
    if name not in known():
        near = get_close_matches(name, known(), 1)
        hint = f"; did you mean {near[0]}?" if near else ";"
        raise OptionError(f"there is no accelerator {quoted(name)}{hint} there is {', '.join(known())}")
    cls = known()[name]
    allowed = [f.name for f in fields(cls)]
    unknown = [field for field in named if field not in allowed]
    if unknown or len(values) > len(allowed):
        raise OptionError(f"{name} has no such field; its fields are {', '.join(allowed) or 'none'}")
    for f, value in (
        (f, {**dict(zip(allowed, values, strict=False)), **named}.get(f.name, f.default)) for f in fields(cls)
    ):
        usual = f.default
        kind = (int, float) if isinstance(usual, float) else type(usual)
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and not isinstance(usual, bool))
        if usual is not MISSING and (wrong or (isinstance(value, int | float) and abs(value) > LARGEST)):
            raise OptionError(f"{name}: {f.name} must be of the kind of {usual!r}, not {quoted(value)}")
    try:
        return cls(*values, **named)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{name}: {first_line(error)[:LONGEST_TEXT]}") from None
