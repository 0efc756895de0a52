"""Rules in plans that are code of others: what goes wrong with them is told with their names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from stagevar.engine.loop.scale_pass import Pass
from stagevar.engine.plan.tokens import Reduced
from stagevar.errors import NumericError, OptionError, StagevarError, first_line

OWN = __name__.partition(".")[0]


@contextmanager
def named(work: Pass) -> Iterator[None]:
    """Errors of a pass whose plan has rules from outside of this package, as one that names them.

    Raises:
        OptionError: of those rules.
        NumericError
    """
    rules = [rule for k in work.members for each in work.whole[k].shape for rule in _several(each) if is_foreign(rule)]
    if not rules:
        yield
        return
    who = f"scale {work.k} with {', '.join(dict.fromkeys(f'{type(r).__module__}.{type(r).__name__}' for r in rules))}"
    try:
        yield
    except NumericError as error:
        raise NumericError(f"{who}: {error}") from error
    except (StagevarError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise OptionError(f"{who} failed: {type(error).__name__}: {first_line(error)}") from error


def is_foreign(rule: object) -> bool:
    """Whether the class of a rule is from outside of this package and of Python."""
    return type(rule).__module__.partition(".")[0] not in (OWN, "builtins", "torch")


def _several(entry: object) -> tuple[object, ...]:
    return entry if isinstance(entry, tuple) else (entry,)


def check_reduced(rule: object, reduced: object, x_RMC: Tensor) -> None:
    """Check the rows that a rule of others has made. Positions are read on the CPU alone: elsewhere that would wait.

    Args:
        rule: the rule.
        reduced: what it returned.
        x_RMC: the rows that it was given.

    Raises:
        OptionError
    """
    fault = _fault(reduced, x_RMC)
    if fault:
        raise OptionError(f"{type(rule).__module__}.{type(rule).__name__} returned {fault}")


def _fault(reduced: object, x_RMC: Tensor) -> str:
    if not isinstance(reduced, Reduced):
        return f"a {type(reduced).__name__} where a Reduced belongs"
    (R, M, C), x, index = x_RMC.shape, reduced.x, reduced.index
    if x.dim() != 3 or (x.shape[0], x.shape[2], x.dtype) != (R, C, x_RMC.dtype) or not 0 < x.shape[1] <= M:
        return f"rows {tuple(x.shape)} in {x.dtype}, made of {tuple(x_RMC.shape)} in {x_RMC.dtype}"
    rows = x.shape[1]
    if reduced.rope is not None and reduced.rope.shape[-3] != rows:
        return f"rotary factors of {reduced.rope.shape[-3]} rows for {rows} rows"
    if index is None:
        grid = reduced.grid
        return "" if grid is not None and grid[0] * grid[1] == rows else f"the grid {grid} for {rows} rows"
    if index.shape != (R, rows) or index.dtype != torch.int64:
        return f"positions {tuple(index.shape)} in {index.dtype} for rows {(R, rows)}"
    if index.device.type != "cpu":
        return ""
    sound = (index >= 0).all() & (index < M).all() & (index.diff(dim=1) > 0).all()
    return "" if bool(sound) else f"positions that are not in order, each once, from 0 to {M - 1}"
