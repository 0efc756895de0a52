"""A benchmark's files: the report as JSON, Markdown and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stagevar.files import replacing
from stagevar.measure.bench.bench import REPORT
from stagevar.measure.bench.page import page
from stagevar.measure.bench.shown import Shown
from stagevar.measure.bench.table import COLUMNS, caption, cells
from stagevar.measure.markdown import table
from stagevar.saved import require_results

FILES = (REPORT, "bench.md", "report.html")


def require_folder(folder: Path) -> None:
    """Raise if files of others are in the place of the report.

    Raises:
        OutputError
    """
    require_results([folder / name for name in FILES], "stagevar bench report")


def write(
    folder: Path, report: Mapping[str, Any], pictures: Sequence[Sequence[Shown]], against: str = ""
) -> list[Path]:
    """Write ``bench.json``, ``bench.md`` and ``report.html``; the files' paths.

    Raises:
        OutputError: a file cannot be written, or one of others is in its place.
    """
    require_folder(folder)
    texts = json.dumps(report, indent=1) + "\n", markdown(report, against), page(report, pictures, against)
    files = [folder / name for name in FILES]
    for file, text in zip(files, texts, strict=True):
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return files


def markdown(report: Mapping[str, Any], against: str = "") -> str:
    """A table per cell, with warnings, and the comparison with an earlier report."""
    commit = f", commit {report['commit'][:7]}" if report["commit"] else ""
    parts = ["# Benchmark", f"{report['date'][:10]}{commit}."]
    for cell in report["cells"]:
        height, width = cell["size"]
        parts += [f"## {cell['model']}, {width}x{height}, batch {cell['batch']}", caption(cell)]
        parts.append(table(COLUMNS, [cells(row, cell["scales"]) for row in cell["rows"]]))
        if cell["warnings"]:
            parts.append("\n".join(f"* Warning: {warning}." for warning in cell["warnings"]))
    if against:
        parts += ["## Against an earlier report", against]
    return "\n\n".join(parts) + "\n"
