"""The contract matrix of one accelerator: every promise on a small network of every family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from stagevar.accelerators.base import Accelerator
from stagevar.errors import Cancelled, StagevarError, first_line
from stagevar.families.catalogue import FAMILIES
from stagevar.measure.check.promises import PROMISES, Broken, NoSuch
from stagevar.measure.check.subject import Subject
from stagevar.registry import known

State = Literal["holds", "fails", "refused", "no such"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One promise on one family.

    Attributes:
        promise: its name in ``PROMISES``.
        family: of the small network.
        state: ``refused`` if the family's pictures are refused before anything is drawn; ``no such`` if the accelerator
            does not make the promise.
        reason: what was found where it fails or is refused.
    """

    promise: str
    family: str
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All cells of one accelerator.

    Attributes:
        accelerator: its text.
        cells: family by family.
        acts: families on which it draws other pictures than the plain run.
        plain: whether its settings are those of the plain run.
    """

    accelerator: str
    cells: tuple[Cell, ...]
    acts: tuple[str, ...]
    plain: bool

    @property
    def faults(self) -> list[str]:
        """A sentence for all that does not hold on a family for one reason. What was never tried does not hold."""
        alike: dict[tuple[str, str], list[str]] = {}
        for cell in self.cells:
            if cell.state == "fails":
                alike.setdefault((cell.family, cell.reason), []).append(cell.promise)
        found = [f"{', '.join(promises)} on {family}: {reason}" for (family, reason), promises in alike.items()]
        if all(cell.state == "refused" for cell in self.cells):
            found.append("no family takes it")
        elif not found and not self.acts and not self.plain:
            found.append("it draws the plain run's pictures everywhere; give settings that act on small networks")
        return found

    @property
    def ok(self) -> bool:
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        cells = [asdict(cell) for cell in self.cells]
        return {"accelerator": self.accelerator, "ok": self.ok, "acts": list(self.acts), "cells": cells}


def check(
    accelerator: Accelerator,
    *,
    among: Mapping[str, type[Accelerator]] | None = None,
    families: Iterable[str] = tuple(FAMILIES),
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Try every promise on small networks. Errors of the accelerator's code become failing cells.

    Args:
        accelerator: with the settings to try.
        among: accelerators by name that it is summed with; None for those that are known.
        families: of the networks.
        progress: told how many cells are done, of those of every promise on every family.
    """
    classes = {**(known() if among is None else among), type(accelerator).name: type(accelerator)}
    cells, acts = list[Cell](), list[str]()
    for family in families:
        subject = Subject(accelerator, family, classes)
        for cell in _family(subject):
            cells.append(cell)
            if progress is not None:
                progress(len(cells))
        if any(cell.family == family and cell.state == "holds" for cell in cells) and _acts(subject):
            acts.append(family)
    return Report(_text(accelerator), tuple(cells), tuple(acts), _plain(accelerator))


def _family(subject: Subject) -> Iterator[Cell]:
    """The promises in order; all are refused where the accelerator refuses the family before drawing."""
    try:
        refused = subject.refusal()
    except Exception as error:
        yield from (Cell(name, subject.family, "fails", _what(error)) for name in PROMISES)
        return
    for name, promise in PROMISES.items():
        cell = Cell(name, subject.family, "refused", refused)
        yield cell if refused else replace(cell, **_tried(promise, subject))


def _tried(promise: Callable[[Subject], None], subject: Subject) -> dict[str, Any]:
    """State and reason of a cell."""
    try:
        promise(subject)
    except Cancelled:
        raise
    except NoSuch:
        return {"state": "no such"}
    except Exception as error:
        return {"state": "fails", "reason": _what(error)}
    return {"state": "holds"}


def _acts(subject: Subject) -> bool:
    """Whether pictures are other ones than the plain run's."""
    try:
        pairs = zip(subject.drawn.latents, subject.plain, strict=True)
        return not all(torch.equal(own, plain) for own, plain in pairs)
    except Exception:
        return False


def _plain(accelerator: Accelerator) -> bool:
    settings = type(accelerator).identity
    return settings is not None and type(accelerator)(**settings) == accelerator


def _text(accelerator: Accelerator) -> str:
    try:
        return str(accelerator)
    except Exception:
        return type(accelerator).name


def _what(error: Exception) -> str:
    """The error in one line; those of this package say enough by themselves."""
    own = isinstance(error, Broken | StagevarError)
    return first_line(error) if own else f"{type(error).__name__}: {first_line(error)}"
