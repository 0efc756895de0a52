"""What a search has found, as files: plans, figures, Markdown, and the front as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stagevar.files import replacing
from stagevar.measure.markdown import table
from stagevar.measure.search.search import Outcome
from stagevar.measure.study.plots import COLOURS, available
from stagevar.saved import require_results

JOURNAL, PLANS = "search.jsonl", "plans.json"
FILES = (PLANS, "search.json", "search.md", "search.png")
COLUMNS = ("budget", "plan", "operations", "SSIM, searched", "SSIM, held out", "found is ahead by")


def require_folder(folder: Path) -> None:
    """Raise if files of others are in the place of what a search writes.

    Raises:
        OutputError
    """
    require_results([folder / name for name in FILES], "stagevar plans")


def write(folder: Path, outcome: Outcome) -> list[Path]:
    """Write ``plans.json``, ``search.json``, ``search.md`` and ``search.png``; the files' paths.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: a file cannot be written, or one of others is in its place.
    """
    available()
    require_folder(folder)
    plans, figures, text, front = files = [folder / name for name in FILES]
    outcome.plans.save(plans)
    for file, said in ((figures, json.dumps(outcome.report, indent=1) + "\n"), (text, markdown(outcome.report))):
        with replacing(file) as temporary:
            temporary.write_text(said, encoding="utf-8")
    with replacing(front) as temporary:
        plot(temporary, outcome.report)
    return files


def rows(report: Mapping[str, Any]) -> list[list[str]]:
    """The table's rows: per budget the plan and its controls, then what else there is."""
    found = [
        [
            f"{each['budget']:g}x",
            row["plan"],
            f"{row['fewer']:.2f}x",
            f"{row['searched']:.4f}",
            f"{row['ssim']:.4f} ± {row['error']:.4f}",
            "" if row["plan"] == "found" else f"{row['behind']:+.4f} ± {row['behind_error']:.4f}",
        ]
        for each in report["budgets"]
        for row in each["rows"]
    ]
    beside = (
        ["", f"`{row['accelerator']}`", f"{row['fewer']:.2f}x", "", f"{row['ssim']:.4f} ± {row['error']:.4f}", ""]
        for row in report["beside"]
    )
    return [*found, *beside]


def markdown(report: Mapping[str, Any]) -> str:
    """The table with all that its figures depend on."""
    parts = f"# Plans for {report['model']}", caption(report), table(COLUMNS, rows(report)), "![front](search.png)"
    return "\n\n".join(parts) + "\n"


def caption(report: Mapping[str, Any]) -> str:
    """What was searched, and what the figures mean."""
    height, width = report["size"]
    return (
        f"{report['model']}, {width}x{height} pixels, {report['dtype']}: genome {report['genome']}, "
        f"{report['evaluations']} plans per budget tried on up to {report['captions']} captions, figures of "
        f"{report['held_out']} others. Operations are the plain run's over the plan's; SSIM is to the plain run with "
        "the same noise. Differences are paired, caption by caption, with their standard error."
    )


def plot(path: Path, report: Mapping[str, Any]) -> None:
    """SSIM on held-out captions over operations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    series: dict[str, list[tuple[float, float, float]]] = {}
    for each in report["budgets"]:
        for row in each["rows"]:
            series.setdefault(row["plan"].partition(":")[0], []).append((row["fewer"], row["ssim"], row["error"]))
    for row in report["beside"]:
        series.setdefault(row["accelerator"].partition("(")[0], []).append((row["fewer"], row["ssim"], row["error"]))
    for i, (name, points) in enumerate(series.items()):
        x, y, error = zip(*sorted(points), strict=True)
        axes.errorbar(x, y, yerr=error, marker="o", capsize=3, color=COLOURS[i % len(COLOURS)], label=name)
    axes.set_xlabel("operations of the plain run over the plan's")
    axes.set_ylabel("SSIM to the plain run, held-out captions")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, format="png", dpi=120)
