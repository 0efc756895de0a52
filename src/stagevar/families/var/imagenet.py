"""Look up the classes of ImageNet by number or name, for class-conditional models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from stagevar.errors import PromptError

COUNT = 1000
_NUMBER = re.compile(r"-?[0-9]{1,9}")


@cache
def names() -> tuple[tuple[str, ...], ...]:
    """The names of each class; the first is the usual name."""
    lines = Path(__file__).with_name("imagenet.txt").read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split(", ")) for line in lines if not line.startswith("#"))


@cache
def _numbers() -> Mapping[str, tuple[int, ...]]:
    """The classes that have a name, by the name in lower case. If the name is the usual name of some classes, only they
    count."""
    usual: dict[str, tuple[int, ...]] = {}
    other: dict[str, tuple[int, ...]] = {}
    for number, (first, *rest) in enumerate(names()):
        usual[first.lower()] = (*usual.get(first.lower(), ()), number)
        for name in rest:
            other[name.lower()] = (*other.get(name.lower(), ()), number)
    return other | usual


def find_class(prompt: str, classes: int) -> int:
    """The number of the class that a prompt such as ``207`` or ``golden retriever`` asks for.

    Only a model with all 1000 classes takes names; ``classes`` is the number of the model's classes.

    Raises:
        PromptError: the number is out of range, the name is unknown (the message lists similar names), or several
            classes have the name.
    """
    text = " ".join(prompt.split()).lower()
    if _NUMBER.fullmatch(text):
        if not 0 <= int(text) < classes:
            raise PromptError(f"there is no class {text}; the model draws classes 0 to {classes - 1}")
        return int(text)
    if classes != COUNT:
        raise PromptError(f"the model takes a class as a number from 0 to {classes - 1}, not {prompt!r}")
    known = _numbers()
    found = known.get(text, ())
    if len(found) == 1:
        return found[0]
    if found:
        listed = " or ".join(f"{number} ({', '.join(names()[number])})" for number in found)
        raise PromptError(f"{prompt!r} names several classes of ImageNet; give the number, {listed}")
    close = [f"{known[name][0]} ({name})" for name in get_close_matches(text, known, n=3)]
    advice = f"close are {', '.join(close)}" if close else "such as 'golden retriever', or a number from 0 to 999"
    raise PromptError(f"{prompt[:60]!r} is no class of ImageNet; {advice}")
