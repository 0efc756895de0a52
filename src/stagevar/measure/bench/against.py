"""Two reports of one benchmark side by side: what a new version of the package, or of the code, has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import hypot
from typing import Any

from stagevar.errors import OptionError
from stagevar.measure.markdown import table

COLUMNS = ("cell", "accelerator", "ms per picture", "before", "time", "SSIM", "before", "reader", "before")
SAME = ("device", "processor", "dtype", "threads", "python", "quantize")
"""What has to be equal for times to be compared."""


def against(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """Markdown: a row per accelerator and cell that both reports have, and what differs besides the code.

    Raises:
        OptionError: they have no cell in common.
    """
    pairs = [(own, old) for own in now["cells"] for old in before["cells"] if own["asked"] == old["asked"]]
    if not pairs:
        raise OptionError("the two reports have no cell in common: models, sizes, batches, captions or seeds differ")
    rows = [row for pair in pairs for row in _rows(*pair)]
    said = f"{_version(pairs[0][0], now)} against {_version(pairs[0][1], before)}."
    return "\n\n".join([said, *dict.fromkeys(each for pair in pairs for each in _apart(*pair)), table(COLUMNS, rows)])


def _rows(own: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[list[str]]:
    earlier = {row["accelerator"]: row for row in old["rows"]}
    asked, count = own["asked"], own["captions"] * own["seeds"]
    cell = ", ".join(filter(None, [asked["model"], asked["size"], f"batch {asked['batch']}"]))
    for row in own["rows"]:
        if was := earlier.get(row["accelerator"]):
            times = [1e3 * each["network_seconds"] / count for each in (row, was)]
            alike = f"{row['ssim']:.4f}{_mark(row, was)}", f"{was['ssim']:.4f}"
            read = [f"{each['oracle']:.3f}" if each["oracle"] is not None else "-" for each in (row, was)]
            cells = f"{times[0]:.1f}", f"{times[1]:.1f}", f"{times[0] / times[1]:.2f}x"
            yield [cell, f"`{row['accelerator']}`", *cells, *alike, *read]


def _mark(row: Mapping[str, Any], was: Mapping[str, Any]) -> str:
    """A star where the SSIM has changed by more than twice its standard errors."""
    errors = row["ssim_error"], was["ssim_error"]
    return "*" if None not in errors and abs(row["ssim"] - was["ssim"]) > 2 * hypot(*errors) + 1e-9 else ""


def _apart(own: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for what makes times differ."""
    if others := [f"{name} {old[name]} before and {own[name]} now" for name in SAME if own[name] != old[name]]:
        yield f"Times cannot be compared: {', '.join(others)}."
    if own["torch"] != old["torch"]:
        yield f"torch was {old['torch']} and is {own['torch']}."


def _version(cell: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    commit = f", commit {report['commit'][:7]}" if report["commit"] else ""
    return f"stagevar {cell['stagevar']}{commit} ({report['date'][:10]})"
