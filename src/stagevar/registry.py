"""Accelerators by name: from the text ``drop_last(2)`` to the dataclass ``DropLast(n=2)``."""

from __future__ import annotations

import ast
import pkgutil
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from inspect import get_annotations, getmembers, isclass
from keyword import iskeyword
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import get_args, get_type_hints

from stagevar import accelerators
from stagevar.accelerators.base import AXES, Accelerator, Claim, Sum
from stagevar.errors import MissingFileError, OptionError, StagevarError, first_line, quoted

GROUP = "stagevar.accelerators"
"""Entry points of other packages: each names an ``Accelerator`` class."""

LONGEST_TEXT, MOST_PARTS, LARGEST = 2000, 16, 2**53
"""Limits of an accelerator's text: its characters, the parts of a sum, and the size of a number in it."""


@dataclass(frozen=True)
class Found:
    """Accelerator classes, and what was left out.

    Attributes:
        classes: by name.
        origins: by name the module of this package or the entry point that a class is from.
        broken: by origin why a plug-in was left out.
    """

    classes: dict[str, type[Accelerator]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def add_module(self, load: Callable[[], ModuleType], origin: str) -> None:
        """Every class that a module defines. An error of its code leaves it out: what somebody has put there must not
        break a plain run."""
        try:
            module = load()
            classes = [cls for _, cls in getmembers(module, isclass) if cls.__module__ == module.__name__]
        except (Exception, SystemExit) as error:
            self.broken[origin] = f"{type(error).__name__}: {first_line(error)[:LONGEST_TEXT]}"
            return
        for cls in classes:
            if issubclass(cls, Accelerator) and cls not in (Accelerator, Sum):
                self.add(cls, origin)

    def add_entry(self, entry: EntryPoint) -> None:
        """The class of another package's entry point."""
        origin = entry.value or entry.name
        try:
            cls = entry.load()
        except (Exception, SystemExit) as error:
            self.broken[origin] = f"{type(error).__name__}: {first_line(error)[:LONGEST_TEXT]}"
            return
        if isclass(cls) and issubclass(cls, Accelerator):
            self.add(cls, origin)
        else:
            self.broken[origin] = "it is no Accelerator class"

    def add(self, cls: type[Accelerator], origin: str) -> None:
        """A class under its own name, unless it is at fault or another class has that name."""
        name, who = cls.__dict__.get("name", ""), f"{origin}.{cls.__name__}"
        if fault := _fault(cls, name):
            self.broken[who] = fault
        elif name in self.classes:
            self.broken[who] = f"the name {name} is taken by {self.classes[name].__module__}"
        else:
            self.classes[name], self.origins[name] = cls, origin


def _fault(cls: type[Accelerator], name: object) -> str:
    """What keeps a class from being taken under a name, "" if nothing does. Whatever lists accelerators or draws with
    them may rely on it."""
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
        return "it has no name of its own; set name: ClassVar[str]"
    if "__dataclass_fields__" not in cls.__dict__ and _settings(cls):
        return "its settings are not read; put @dataclass(frozen=True) before it"
    for attribute, words in (("owns", AXES), ("signals", sorted(Accelerator.signals))):
        value = getattr(cls, attribute)
        if not isinstance(value, frozenset) or not value <= set(words):
            return f"{attribute} must be a frozenset of {', '.join(words)}"
    if not isinstance(cls.claims, tuple) or not all(isinstance(claim, Claim) for claim in cls.claims):
        return "claims must be a tuple of Claim"
    for attribute, kind in (("online", bool), ("citation", str), ("source", str)):
        if not isinstance(getattr(cls, attribute), kind):
            return f"{attribute} must be of the kind {kind.__name__}"
    if not isinstance(cls.identity, Mapping | None):
        return "identity must be settings by name, or None"
    for settings in ({}, cls.identity or {}):
        try:
            own = cls(**settings)
            same = parse(str(own), {name: cls}) == own
        except Exception as error:  # code of others
            return f"{name}({settings or ''}) cannot be made and read back: {type(error).__name__}: {first_line(error)}"
        if not same:
            return f"the text of its settings, {quoted(str(own))}, is read back as others"
    return ""


def _settings(cls: type[Accelerator]) -> list[str]:
    """Names that a class itself annotates as settings."""
    return [each for each, hint in get_annotations(cls).items() if "ClassVar" not in str(hint)]


@cache
def _found() -> Found:
    found = Found()
    for module in pkgutil.iter_modules(accelerators.__path__, f"{accelerators.__name__}."):
        found.add_module(partial(import_module, module.name), module.name)
    for entry in entry_points(group=GROUP):
        found.add_entry(entry)
    return found


def known() -> Mapping[str, type[Accelerator]]:
    """Every accelerator class by name: the files of this package's folder, then other packages' entry points."""
    return MappingProxyType(dict(sorted(_found().classes.items())))


def origins() -> Mapping[str, str]:
    """By name the module of this package, or another package's entry point, that a known class is from."""
    return MappingProxyType(_found().origins)


def broken() -> Mapping[str, str]:
    """Plug-ins that were left out, by file or entry point, and why."""
    return MappingProxyType(_found().broken)


def of_file(path: Path) -> Mapping[str, type[Accelerator]]:
    """Accelerator classes by name of a Python file, whose code is run.

    Raises:
        MissingFileError: there is no such file.
        OptionError: its code fails, or it has no class that the registry would take; says why.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}")
    found = Found()
    found.add_module(partial(_run, path), path.name)
    for name in found.classes.keys() & known().keys():
        if (taken := known()[name].__module__) and not _is_of(path, taken):
            found.broken[path.name] = f"the name {name} is taken by {taken}"
    if found.broken or not found.classes:
        why = "; ".join(f"{where}: {why}" for where, why in found.broken.items())
        raise OptionError(f"{path} has no accelerator that can be used: {why or 'it defines none'}")
    return found.classes


def _is_of(path: Path, module: str) -> bool:
    """Whether a file is the code of a module that has been imported."""
    own = getattr(sys.modules.get(module), "__file__", None)
    return own is not None and Path(own).resolve() == path.resolve()


def _run(path: Path) -> ModuleType:
    """The module of a file, known by the file's name, which no import statement can take for another."""
    spec = spec_from_file_location(path.name, path)
    if spec is None or spec.loader is None:
        raise OptionError("it is no Python file")
    module = sys.modules[path.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(text: str | Accelerator, among: Mapping[str, type[Accelerator]] | None = None) -> Accelerator:
    """``name``, ``name(0.5, field=value)`` or a sum of them with ``+`` to an accelerator; ``parse(str(a)) == a``.

    Args:
        text: an accelerator is returned as it is.
        among: classes by name; None for those that are known.

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
    return _build(tree, text, known() if among is None else among)


def parse_foreign(text: str) -> Accelerator:
    """``parse``, for text that came over a network: no setting of it names a file of this machine. Besides those that
    are marked so, a text has to be one of the words that the setting's type, a ``Literal``, lists.

    Raises:
        OptionError
    """
    accelerator = parse(text)
    for part in accelerator.parts if isinstance(accelerator, Sum) else (accelerator,):
        for f in fields(part):
            value = getattr(part, f.name)
            if value != f.default and (f.metadata.get("file") or _strange(part, f.name)):
                raise OptionError(
                    f"{part.name}: {f.name} names a file; it can be given in Python and on the command line"
                )
    return accelerator


def _strange(part: Accelerator, field: str) -> set[str]:
    """The texts in a setting that its type does not list."""
    texts = _texts(getattr(part, field))
    with suppress(NameError):  # a type that is known to type checkers alone lists nothing
        return texts - _words(get_type_hints(type(part))[field]) if texts else texts
    return texts


def _texts(value: object) -> set[str]:
    """All texts in a literal."""
    if isinstance(value, str | bytes):
        return {str(value)}
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return {text for part in parts for text in _texts(part)} if isinstance(parts, list | tuple | set) else set()


def _words(kind: object) -> set[str]:
    """The texts that a type lists."""
    parts = get_args(kind)
    return {part for part in parts if isinstance(part, str)} | {word for part in parts for word in _words(part)}


def _build(node: ast.expr, text: str, among: Mapping[str, type[Accelerator]]) -> Accelerator:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _build(node.left, text, among) + _build(node.right, text, among)
    if isinstance(node, ast.Name):
        return _make(node.id, [], {}, among)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        try:
            values = [ast.literal_eval(value) for value in node.args]
            named = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in node.keywords}
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise OptionError(f"{quoted(text)}: values must be numbers, texts, True, False or None") from None
        if len(named) < len(node.keywords):
            raise OptionError(f"{quoted(text)} gives a field twice")
        return _make(node.func.id, values, named, among)
    raise OptionError(f"cannot read accelerator {quoted(text)}; write name(field=value), sums with +")


def _make(
    name: str, values: list[object], named: dict[str, object], among: Mapping[str, type[Accelerator]]
) -> Accelerator:
    if name not in among:
        near = get_close_matches(name, among, 1)
        hint = f"; did you mean {near[0]}?" if near else ";"
        raise OptionError(f"there is no accelerator {quoted(name)}{hint} there is {', '.join(among)}")
    cls = among[name]
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
        told = usual is not MISSING and usual is not None
        if (told and wrong) or (isinstance(value, int | float) and abs(value) > LARGEST):
            raise OptionError(f"{name}: {f.name} must be of the kind of {usual!r}, not {quoted(value)}")
    try:
        return cls(*values, **named)
    except StagevarError:
        raise
    except Exception as error:  # code of others
        raise OptionError(f"{name}: {first_line(error)[:LONGEST_TEXT]}") from None
