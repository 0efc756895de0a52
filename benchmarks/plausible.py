"""What holds of every run of a benchmark, so that figures which no run can have written are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from math import ceil, isclose, isfinite
from typing import Any

SHARES = "oracle", "relaxed", "executed_share"
TOLERANCE = 1e-6


def check(run: Mapping[str, Any]) -> None:
    """Look at one run.

    Raises:
        ValueError: figures that contradict one another; says which.
    """
    if datetime.fromisoformat(run["date"]).tzinfo is None:
        raise ValueError(f"date {run['date']} has no zone")
    if not run["commit"]:
        raise ValueError("it names no commit")
    if not (run["command"] or run.get("migrated")):
        raise ValueError("it names no command")
    found = list(_mappings(run["report"]))
    for figures in found:
        _check_figures(figures)
    for figures in found:
        rows = figures.get("rows")
        if isinstance(rows, Sequence) and rows and "oracle_difference" in rows[0]:
            _check_comparison(figures, rows)


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """All mappings inside a report, outer ones first."""
    if isinstance(value, Mapping):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _mappings(inner)


def _check_figures(figures: Mapping[str, Any]) -> None:
    """What one mapping says by itself."""
    for name, value in figures.items():
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{name} is {value}")
        if name in SHARES and isinstance(value, float) and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, no share")
        if name.startswith("ssim") and isinstance(value, float) and not -1 <= value <= 1 + TOLERANCE:
            raise ValueError(f"{name} is {value}, no SSIM")
        if name.endswith(("seconds", "flops", "speedup")) and isinstance(value, float) and value <= 0:
            raise ValueError(f"{name} is {value}")
    if {"min", "median", "max"} <= set(figures) and not figures["min"] <= figures["median"] <= figures["max"]:
        raise ValueError(f"the median {figures['median']} is outside of its range")
    quartiles = figures.get("speedup_quartiles")
    if quartiles and not quartiles[0] <= figures["speedup"] <= quartiles[1]:
        raise ValueError(f"the median speed-up {figures['speedup']} is outside of its quartiles")


def _check_comparison(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """What the rows of ``stagevar.measure.bench.compare`` say of one another."""
    plain, batches, slack = rows[0], ceil(found["captions"] / found["batch"]), 1 + TOLERANCE
    for row in rows:
        name = row["accelerator"]
        if row["network_seconds"] > row["total_seconds"]:
            raise ValueError(f"{name}: the network alone took longer than all")
        for total, each in (("network_seconds", "network_batch"), ("total_seconds", "total_batch")):
            if not batches * row[each]["min"] / slack <= row[total] <= batches * row[each]["max"] * slack:
                raise ValueError(f"{name}: {total} is no sum of {batches} batches")
        if row["executed_scales"] != sorted(set(row["executed_scales"]) & set(range(found["scales"]))):
            raise ValueError(f"{name}: scales {row['executed_scales']} of {found['scales']}")
        slow, fast = plain["network_batch"], row["network_batch"]
        if not slow["min"] / fast["max"] / slack <= row["speedup"] <= slow["max"] / fast["min"] * slack:
            raise ValueError(f"{name}: no two batches have the ratio {row['speedup']}")
        if row["oracle"] is not None and not isclose(
            row["oracle_difference"], row["oracle"] - plain["oracle"], abs_tol=TOLERANCE
        ):
            raise ValueError(f"{name}: the oracle's difference is not that of the two scores")
    if plain["speedup"] != 1 or not isclose(plain["ssim"], 1, abs_tol=TOLERANCE):
        raise ValueError("the first row is not the plain run")
