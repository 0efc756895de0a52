"""What accelerators share that decide half way with fitted numbers: at which scale, with which fit, and by what."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from stagevar.accelerators.base import Facts
from stagevar.engine.grids.grid import Schedule, scales
from stagevar.engine.plan.signals import Signals
from stagevar.engine.plan.watch import Watch
from stagevar.errors import OptionError
from stagevar.fit import Fit, command
from stagevar.saved import read_once

W = TypeVar("W", bound=Watch)

SHARE = 0.5
"""Largest side of the scale that decides, relative to the final one."""


def halfway(schedule: Schedule, who: object) -> int:
    """The last scale of at most half the final side.

    Raises:
        OptionError: there is none before the last one.
    """
    early = [at.k for at in scales(schedule)[:-1] if at.share <= SHARE]
    if not early:
        raise OptionError(f"{who}: no scale of at most half the final side comes before the last one")
    return early[-1]


def fit_for(name: str, text: str, file: str, shipped: Path, schedule: Schedule, facts: Facts) -> Fit:
    """The fit of an accelerator for a model and a schedule: the user's, that in the model's folder, or the shipped one.

    Args:
        name: the accelerator's.
        text: as the user would write it to have it fitted.
        file: of the user, or empty.

    Raises:
        MissingFileError: there is no such file.
        OptionError: there is none, or the file is no fit, or one of another accelerator, model, schedule or version.
    """
    if facts.restores:
        raise takes_none(text, facts)
    fit = fit_if_any(name, file, shipped, schedule, facts)
    if fit is None:
        own = _in_folder(name, facts)
        there = f" ({own} is for other grids)" if own else ""
        raise OptionError(
            f"{text}: no fit for model {facts.model!r} at a final grid of {schedule[-1][0]}x{schedule[-1][1]} is "
            f"shipped{there}; make one with `{command(text, str(facts.folder or facts.model))}`, then pass "
            f"fit='{name}.json'"
        )
    return fit


def fit_if_any(name: str, file: str, shipped: Path, schedule: Schedule, facts: Facts) -> Fit | None:
    """The same, but None if the user names no file, and that in the model's folder is for other grids, or there is none
    and the shipped one is not for this model and schedule.

    Raises:
        as ``fit_for``.
    """
    if facts.restores:
        if file:
            raise takes_none(f"{name}(fit={file!r})", facts)
        return None
    own, source = _in_folder(name, facts), fit_file(name, file, shipped, facts)
    fit = read_once(Fit.load, source)
    if not file and (fit.schedule != schedule or (own is None and fit.model != facts.model)):
        return None
    try:
        fit.require(name, facts.model, schedule)
    except OptionError as error:
        raise OptionError(f"{source}: {error}") from None
    return fit


def fit_file(name: str, file: str, shipped: Path, facts: Facts) -> Path:
    """The file that a fit is read from: the user's, that in the model's folder, or the shipped one."""
    return Path(file) if file else _in_folder(name, facts) or shipped


def takes_none(text: str, facts: Facts) -> OptionError:
    """The error of an accelerator with fitted numbers on a model that restores pictures."""
    return OptionError(
        f"{text}: model {facts.model!r} restores pictures, and no numbers can be fitted to such a model; choose "
        "another accelerator"
    )


def _in_folder(name: str, facts: Facts) -> Path | None:
    """The fit of an accelerator that lies in the model's folder, if one does."""
    own = facts.folder and facts.folder / f"{name}.json"
    return own if own and (own.exists() or own.is_symlink()) else None


def watched(signals: Signals, kind: type[W]) -> W | None:
    """The watch of a kind, behind the scale that has one."""
    return next((watch for watch in signals.watched if isinstance(watch, kind)), None)
