"""What a benchmark is: how its prompts are read, where its scorer looks for pictures, and how results are read.

A benchmark is one file in ``suites``. Prompts are those of the user, who has the benchmark; none are shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagevar.errors import OptionError, quoted, some
from stagevar.evaluation.protocol import Protocol
from stagevar.files import one_name


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of a benchmark.

    Attributes:
        key: name of its pictures, unique within the benchmark.
        prompt: as the benchmark states it.
        more: what the layout needs besides.
    """

    key: str
    prompt: str
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a scorer found.

    Attributes:
        values: by name; the first one is the benchmark's headline.
        counted: files that it read, None if its results do not say.
    """

    values: dict[str, float]
    counted: int | None = None


def _no_notes(items: Sequence[Item], files: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: on the command line.
        title: in reports.
        source: whose scorer it is, and where.
        prompts: which file or folder of the benchmark holds its prompts.
        read: reads that.
        place: path, without a suffix and within the folder of pictures, of an item's i-th picture.
        protocols: published ways to draw its pictures; the first one is the benchmark's own.
        results: suffix of the scorer's results.
        scores: reads those results; raises OptionError if they are of another form.
        scorer: the official command line, with the fields of ``scorer.py``.
        inside: where {results} is a folder, the pattern of the file in it that holds them.
        suffix: of the pictures that the scorer reads.
        sheet: whether an item's pictures are one file, two by two.
        notes: further files, by their path within the folder of the run; they name pictures by absolute paths.
    """

    name: str
    title: str
    source: str
    prompts: str
    read: Callable[[Path], list[Item]]
    place: Callable[[Item, int], str]
    protocols: tuple[Protocol, ...]
    results: str
    scores: Callable[[Path], Scores]
    scorer: str
    inside: str = ""
    suffix: str = ".png"
    sheet: bool = False
    notes: Callable[[Sequence[Item], Mapping[str, Sequence[Path]]], dict[str, str]] = _no_notes

    def items(self, path: Path) -> list[Item]:
        """The benchmark's prompts.

        Raises:
            MissingFileError: the file or folder cannot be read.
            OptionError: it is of another form, or two prompts have one name.
        """
        found = self.read(path.expanduser())
        if not found:
            raise OptionError(f"{path} holds no prompt; {self.title} takes {self.prompts}")
        keys = [item.key for item in found]
        if bad := [key for key in keys if not one_name(key) or key.startswith(".") or len(key.encode()) > 180]:
            raise OptionError(f"{path} has names that cannot be those of files: {some(map(quoted, bad))}")
        if len(set(keys)) < len(keys):
            raise OptionError(f"{path} has several prompts named {some({key for key in keys if keys.count(key) > 1})}")
        return found

    def protocol(self, name: str | None) -> Protocol:
        """A published protocol; without a name the benchmark's own.

        Raises:
            OptionError: there is none of that name.
        """
        for each in self.protocols:
            if name in (None, each.name):
                return each
        names = ", ".join(each.name for each in self.protocols)
        raise OptionError(f"{self.title} has no protocol {quoted(name)}; there is {names}")
