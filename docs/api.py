"""Writes the page of the public names: ``python docs/api.py``; ``--check`` fails if it is out of date."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

import stagevar

PAGE = Path(__file__).with_name("api.md")


def main() -> None:
    page = written()
    if "--check" in sys.argv:
        sys.exit("out of date: run docs/api.py" if PAGE.read_text(encoding="utf-8") != page else 0)
    PAGE.write_text(page, encoding="utf-8")


def written() -> str:
    """The page: every public name with its signature and docstring."""
    names = [name for name in stagevar.__all__ if inspect.isclass(getattr(stagevar, name))]
    parts = ["# API", "The public names of `stagevar`, made by `python docs/api.py`.", *map(described, names)]
    return "\n\n".join(parts) + "\n"


def described(name: str) -> str:
    kind = getattr(stagevar, name)
    parts = [f"## {name}", text(kind)]
    if dataclasses.is_dataclass(kind):
        fields = ", ".join(f"`{field.name}: {field.type}`" for field in dataclasses.fields(kind))
        parts.append(f"Fields: {fields}." if fields else "No fields.")
    for member, value in vars(kind).items():
        inner = (
            value.__func__ if isinstance(value, classmethod) else value.fget if isinstance(value, property) else value
        )
        if (member.startswith("_") and member != "__call__") or not inspect.isfunction(inner) or not inner.__doc__:
            continue
        shown = member if isinstance(value, property) else f"{member}{signature(inner)}"
        parts.append(f"### {name}.{member}\n\n```python\n{shown}\n```\n\n{text(inner)}")
    return "\n\n".join(parts)


def signature(function: Any) -> str:
    """The signature as it is written, a parameter a line if it is long."""
    found = inspect.signature(function)
    short = str(found)
    if len(short) < 100:
        return short
    lines = [f"    {parameter}," for parameter in map(str, found.parameters.values())]
    return "(\n" + "\n".join(lines) + f"\n) -> {found.return_annotation}"


def text(thing: Any) -> str:
    """The docstring, its indented parts as code."""
    return inspect.cleandoc(thing.__doc__ or "").replace("\n    ", "\n    ")


if __name__ == "__main__":
    main()
