"""Writes the page of the public names: ``python docs/api.py``; ``--check`` fails if it is out of date."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import stagevar

PAGE = Path(__file__).with_name("api.md")
WIDTH = 100
SECTION = re.compile(r"[A-Z][^\n]*:\n    ")
ENTRY = re.compile(r"^(\w[\w, ]*):")


def main() -> None:
    page = written()
    if "--check" in sys.argv:
        sys.exit("out of date: run docs/api.py" if PAGE.read_text(encoding="utf-8") != page else 0)
    PAGE.write_text(page, encoding="utf-8")


def written() -> str:
    """The page: every public name with its signature and docstring, then the errors."""
    kinds = [getattr(stagevar, name) for name in stagevar.__all__ if inspect.isclass(getattr(stagevar, name))]
    parts = ["# API", "The public names of `stagevar`, made by `python docs/api.py`.", *map(described, kinds), errors()]
    return "\n\n".join(parts) + "\n"


def described(kind: type) -> str:
    """One class: how it is made, what it is, and its methods."""
    parts = [f"## {kind.__name__}"]
    if dataclasses.is_dataclass(kind):
        parts.append(code(kind.__name__ + signature(kind.__init__)))
    parts.append(prose(kind))
    for member, value in members(kind).items():
        function = value.__func__ if isinstance(value, classmethod) else getattr(value, "fget", value)
        shown = inspect.isfunction(function) and function.__doc__ and (member == "__call__" or member[0] != "_")
        if shown:
            arguments = f": {annotation(function)}" if isinstance(value, property) else signature(function)
            parts += [f"### {kind.__name__}.{member}", code(member + arguments), prose(function)]
    return "\n\n".join(parts)


def members(kind: type) -> dict[str, Any]:
    """What a class has of its own, and behind it what it has of its bases in this package."""
    found = dict(vars(kind))
    for base in kind.__mro__[1:]:
        inside = base.__module__.partition(".")[0] == "stagevar"
        found |= {name: value for name, value in vars(base).items() if inside and name not in found}
    return found


def errors() -> str:
    """The tree of exceptions, as their module draws it."""
    about, tree = inspect.cleandoc(stagevar.errors.__doc__ or "").split("\n\n")
    return f"## errors\n\nClasses of `stagevar.errors`. {about}\n\n```text\n{tree}\n```"


def code(text: str) -> str:
    return f"```python\n{text}\n```"


def signature(function: Any) -> str:
    """The signature as it is written, a parameter a line if it is long; what refuses unknown names is left out."""
    found = inspect.signature(function)
    shown = list(parameters(found))
    result = "" if found.return_annotation in (None, "None") else f" -> {annotation(function)}"
    line = f"({', '.join(shown)}){result}"
    return line if len(line) < WIDTH else "(\n" + "".join(f"    {each},\n" for each in shown) + f"){result}"


def parameters(found: inspect.Signature) -> Iterator[str]:
    named = False
    for each in found.parameters.values():
        if each.name in ("self", "cls") or each.annotation == "Never":
            continue
        if each.kind is each.KEYWORD_ONLY and not named:
            named = True
            yield "*"
        star = "**" if each.kind is each.VAR_KEYWORD else ""
        default = "" if each.default is each.empty else f" = {default_of(each.default)}"
        yield f"{star}{each.name}: {each.annotation}{default}"


def default_of(value: Any) -> str:
    return "..." if repr(value).startswith("<") else repr(value)


def annotation(function: Any) -> str:
    return str(inspect.signature(function).return_annotation)


def prose(thing: Any) -> str:
    """A docstring as Markdown: its sections as lists, its paragraphs as they are."""
    parts = inspect.cleandoc(thing.__doc__ or "").replace("``", "`").split("\n\n")
    return "\n\n".join(section(part) if SECTION.match(part) else part for part in parts)


def section(part: str) -> str:
    """``Args:`` and its like with an item per entry; indented lines go on with the entry above."""
    title, _, body = part.partition("\n")
    lines = re.sub(r"(?<=,)\n\s*|\n\s+", " ", inspect.cleandoc(body)).splitlines()
    items = [ENTRY.sub(r"* `\1`:", line) if ENTRY.match(line) else f"* {line}" for line in lines]
    return "\n".join([f"**{title.removesuffix(':')}**", "", *items])


if __name__ == "__main__":
    main()
