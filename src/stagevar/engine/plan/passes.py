"""Which scales of a plan share a pass through the network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from stagevar.errors import OptionError

if TYPE_CHECKING:
    from stagevar.engine.plan.plan import ScalePlan

Passes = tuple[tuple[int, ...], ...]
"""Indices of the scales that run, pass by pass."""


def passes(scales: Sequence[ScalePlan]) -> Passes:
    """The passes of a plan, in order: a scale with ``group`` joins the pass of the scale that runs before it.

    Raises:
        OptionError: scales that cannot share a pass; names them.
    """
    found: list[tuple[int, ...]] = []
    for k, scale in enumerate(scales):
        if scale.run == "skip":
            continue
        if not scale.group:
            found.append((k,))
        elif not found:
            raise OptionError(f"scale {k} cannot share the pass of a scale before it, as none runs")
        else:
            found[-1] = (*found[-1], k)
    for members in found:
        for before, k in pairwise(members):
            _check(scales, before, k)
    return tuple(found)


def _check(scales: Sequence[ScalePlan], before: int, k: int) -> None:
    for j in (before, k):
        if scales[j].run == "reuse":
            raise OptionError(f"scale {j} reuses hidden states, so it has no pass to share; let it run in full")
    if scales[before].watch:
        raise OptionError(f"scale {before} is watched but its pass goes on; only the last scale of a pass can be")
    branches = scales[before].branch, scales[k].branch
    if branches[0] != branches[1]:
        raise OptionError(
            f"scales {before} and {k} share a pass but run the branches {branches[0]!r} and {branches[1]!r}; "
            "scales of one pass run the same"
        )
