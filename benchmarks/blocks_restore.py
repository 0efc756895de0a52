"""The figures of the model that restores, from the file beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from store import ROOT

from stagevar.measure.markdown import table

SCORES = ROOT / "models" / "restore" / "scores.json"


def restoration() -> str:
    found = json.loads(SCORES.read_text(encoding="utf-8"))
    return f"{gains(found['restored'])}\n\n{plans(found['plans'])}"


def gains(found: Mapping[str, Any]) -> str:
    """PSNR by fault."""
    rows = [
        [
            row["degradation"],
            f"{row['degraded']:.1f}",
            f"{row['coded']:.1f}",
            f"{row['estimate']:.1f}",
            f"{row['restored']:.1f}",
            f"{row['restored'] - row['degraded']:+.1f} ± {row['error']:.1f}",
        ]
        for row in found["rows"]
    ]
    head = ["fault", "degraded", "reconstructed", "estimate", "restored", "gain"]
    said = f"PSNR in dB to the clean picture, over {found['captions']} captions that training never saw:"
    return f"{said}\n\n{table(head, rows)}"


def plans(found: Mapping[str, Any]) -> str:
    """What each plan saves and loses."""
    rows: Sequence[Mapping[str, Any]] = found["rows"][1:]
    lines = [
        f"* `{row['plan']}`: {1 - row['time']:.0%} less time, {row['lost']:.2f} ± {row['error']:.2f} dB lost; "
        f"{row['rows']:.0%} of the rows run."
        for row in rows
    ]
    where = f"batches of {found['batch']} on {found['device']} with {found['threads']} threads, drawn in turn"
    return f"Against the plain run, {where}:\n\n" + "\n".join(lines)
