"""What a reader of a comparison should know before its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import hypot
from typing import Any

BUSY, WIDE = 0.6, 0.15
"""Load for each processor, and spread of the plain run's times (quartiles over the median), above which times say
little."""

SAVED, GAINED = 1.05, 1.02
"""Fewer operations than this count as a saving, and a shorter time than this as a gain."""

Row = Mapping[str, Any]


def warnings(comparison: Mapping[str, Any]) -> list[str]:
    """A sentence each: a busy machine, methods that cannot pay or did not, differences within their errors."""
    plain, *rows = comparison["rows"]
    place = f"at {'x'.join(map(str, reversed(comparison['size'])))} and batch {comparison['batch']}"
    return [*_machine(comparison, plain), *_cannot_pay(rows, place), *_within(rows)]


def _machine(comparison: Mapping[str, Any], plain: Row) -> Iterator[str]:
    busy, quartiles = comparison["load"], plain["network_quartiles"]
    if busy is not None and busy > BUSY:
        yield f"the machine was busy when it began: {busy:.1f} processes for each processor; times are too long"
    if quartiles and (spread := (quartiles[1] - quartiles[0]) / plain["network_batch"]["median"]) > WIDE:
        yield f"the plain run's times spread by {spread:.0%} (quartiles over the median); smaller differences are noise"


def _cannot_pay(rows: Sequence[Row], place: str) -> Iterator[str]:
    for row in rows:
        saved, name = row["flop_ratio"], row["accelerator"]
        if saved <= 1:
            yield f"{name} cannot pay {place}: it takes as many operations as the plain run, or more"
        elif saved >= SAVED and row["speedup"] < GAINED:
            yield f"{name} does not pay {place}: operations / {saved:.2f}, time / {row['speedup']:.2f}"


def _within(rows: Sequence[Row]) -> Iterator[str]:
    even = [row["accelerator"] for row in rows if _no_larger(row["oracle_difference"], row["oracle_difference_error"])]
    if even:
        yield f"within its standard error the reader's score is the plain run's: {', '.join(even)}"
    ordered = sorted((row for row in rows if row["ssim_error"] is not None), key=lambda row: -row["ssim"])
    for better, worse in pairwise(ordered):
        if better["ssim"] - worse["ssim"] <= hypot(better["ssim_error"], worse["ssim_error"]):
            yield f"within standard errors {better['accelerator']} and {worse['accelerator']} have one SSIM"


def _no_larger(value: float | None, error: float | None) -> bool:
    return value is not None and error is not None and abs(value) <= error
