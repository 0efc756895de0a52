"""Measured figures as Markdown: memory, loading, and pictures alone and in batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagevar.measure.markdown import table

Row = Mapping[str, Any]


def memory(report: Row) -> str:
    rows = [
        [
            row["family"],
            str(row["batch"]),
            *(f"{row[name] / 2**20:.1f}" for name in ("predicted", "measured")),
            f"{row['predicted'] / row['measured'] - 1:+.1%}",
        ]
        for row in report["rows"]
    ]
    worst = max(abs(row["predicted"] / row["measured"] - 1) for row in report["rows"])
    head = ["random model of", "batch", "predicted MiB", "grown by MiB", "difference"]
    return f"{table(head, rows)}\n\nLargest difference {worst:.1%}."


def loading(report: Row) -> str:
    """Seconds until a large model is usable, beside those of reading its file."""
    rows = [
        [
            row["dtype"],
            row["quantize"] or "-",
            *(f"{row[name]:.1f}" for name in ("read_seconds", "loaded_seconds", "usable_seconds")),
            f"{row['usable_seconds'] / row['read_seconds']:.1f}x",
            f"{row['resident'] / 1e9:.1f}",
        ]
        for row in report["rows"]
    ]
    head = ["loaded in", "quantize", "reading the file, s", "loaded, s", "usable, s", "usable / reading", "process, GB"]
    return (
        f"{report['model']} with random weights, {report['bytes'] / 1e9:.1f} GB (blocks in bfloat16), "
        f"{report['threads']} threads, torch {report['torch']}; medians of {report['repeats']}.\n\n{table(head, rows)}"
    )


def batches(report: Row) -> str:
    rows = [
        [
            row["model"],
            row["dtype"],
            f"{row['different']} of {row['pictures']}",
            str(row["levels"]),
            *(f"{row[name]:.3f}" if name in row else "-" for name in ("ssim_median", "ssim_lowest")),
        ]
        for row in report["rows"]
    ]
    head = ["model", "dtype", "pictures that differ", "largest difference in levels", "their SSIM, median", "lowest"]
    return f"{report['device']}, torch {report['torch']}, batches of {report['batch']}.\n\n{table(head, rows)}"


def half(report: Row) -> str:
    """Batch equality of the shipped model, a line per dtype."""
    lines = []
    for row in (row for row in report["rows"] if row["model"] == "scenes"):
        line = f"* {row['dtype']}: {row['different']} of {row['pictures']} pictures differ"
        if row["different"]:
            line += f", SSIM {row['ssim_median']:.3f} (median) and {row['ssim_lowest']:.3f} (lowest)"
        lines.append(line + ".")
    place = f"scenes, {report['device']}, torch {report['torch']}, alone against batches of {report['batch']}"
    return f"{place}; a picture differs if a pixel does by more than one level of 255:\n\n" + "\n".join(lines)
