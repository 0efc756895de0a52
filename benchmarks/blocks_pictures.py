"""Measured figures of single pictures as Markdown: boundaries of stages, and how many reach a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagevar.measure.markdown import table

ENDS = 3
"""Captions shown from each end of the list of stages."""

Row = Mapping[str, Any]


def stages(report: Row) -> str:
    def both(row: Row, digits: int) -> str:
        return f"{row['mean']:.{digits}f} ± {row['std']:.{digits}f}"

    shown = [*report["rows"][:ENDS], *report["rows"][-ENDS:]]
    rows = [
        [row["caption"], both(row["single"], 1), both(row["fidelity"], 1), both(row["kept"], 2), both(row["rows"], 0)]
        for row in shown
    ]
    head = ["caption", "first scale with one branch", "first fidelity scale", "kept at the last scale", "rows"]
    lines = [
        f"{name} {report['spread'][key]['within']:.{digits}f} within a caption (over seeds), "
        f"{report['spread'][key]['between']:.{digits}f} between captions"
        for name, key, digits in (
            ("end of guidance", "single", 2),
            ("first fidelity scale", "fidelity", 2),
            ("kept share", "kept", 3),
        )
    ]
    return (
        f"{report['seeds']} seeds each, `{report['accelerator']}`; mean ± standard deviation over seeds, the captions "
        f"that keep least and most. Scales count from 0.\n\n{table(head, rows)}\n\nOver {report['captions']} captions: "
        f"{'; '.join(lines)}."
    )


def reached(report: Row) -> str:
    """How many pictures come as close to their plain run as a target asks."""
    rows = [
        [
            row["model"],
            f"{row['target']:g}",
            f"{100 * row['reached']:.1f}% of {row['pictures']}",
            f"{row['ssim']:.3f}",
            f"{row['ssim_low']:.3f}",
            f"{row['flop_ratio']:.2f}",
            f"{row['speedup']:.2f}",
            f"{100 * row['plain']:.0f}%",
        ]
        for row in report["rows"]
    ]
    head = ["model", "target", "reach it", "SSIM", "SSIM of the worst tenth at most"]
    head += ["by operations", "network speed-up", "run in full"]
    return (
        f"Captions that no fit has seen, batch {report['batch']}, {report['dtype']}, {report['device']} "
        f"with {report['threads']} threads, torch {report['torch']}.\n\n{table(head, rows)}"
    )
