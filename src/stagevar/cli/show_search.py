"""Print what a search has found on stdout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagevar.cli.show import line, new_table, print_table


def found(report: Mapping[str, Any]) -> None:
    """Per budget the plan and its controls, other accelerators beside them, and what the figures hold for."""
    from stagevar.measure.search.report import COLUMNS, caption, rows

    table = new_table(*(f">{name}" if name not in ("budget", "plan") else f"~{name}" for name in COLUMNS))
    for row in rows(report):
        table.add_row(*(cell.strip("`") for cell in row))
    print_table(table)
    line(caption(report))
