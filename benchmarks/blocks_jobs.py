"""Figures of batch jobs as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from stagevar.measure.markdown import table

KILLED = {"here": "one process", "ray": "two workers on Ray"}
COUNTED = {
    "lost": "pictures that were there and are gone",
    "missing": "rows without a picture at the end",
    "noted_and_drawn_again": "noted as finished, and drawn again",
    "written_and_drawn_again": "drawn again because the kill came between file and note",
}


def jobs(report: Mapping[str, Any]) -> str:
    """What keeping a million pictures takes."""
    grown = report["memory_growth_bytes"] / 2**20
    return (
        f"{report['pictures']:,} rows against a stand-in for the model, WebDataset shards: "
        f"{report['rows_per_second']:.0f} rows per second; the process grew by {grown:.1f} MiB after the first tenth. "
        f"A second run of the finished job took {report['resume_seconds']:.0f} s "
        f"({report['resume_processor_seconds']:.0f} s of the processor)."
    )


def kills(report: Mapping[str, Any]) -> str:
    """What was lost by kills."""
    found = [report[name] for name in KILLED]
    rows = [["pictures", *(str(each["pictures"]) for each in found)]]
    rows += [[f"kills of the {what}", *(str(each["kills"][what]) for each in found)] for what in ("driver", "worker")]
    rows += [[said, *(str(each[name]) for each in found)] for name, said in COUNTED.items()]
    shown = table(["", *KILLED.values()], rows)
    return f"{report['model']} with `{report['accelerator']}`, batches of {report['batch']}; kill -9.\n\n{shown}"


def workers(report: Mapping[str, Any]) -> str:
    """Batches in turn, two at once, and two workers on Ray."""
    rows = []
    for accelerator, rates in report["pictures_per_second"].items():
        one, two, ray = (fmean(rates[way]) for way in ("one", "two", "ray"))
        gains = (f"{rate:.2f} ({rate / one:.2f}x)" for rate in (two, ray))
        rows.append([f"`{accelerator}`", f"{one:.2f}", *gains])
    head = ["accelerator", "batches in turn", "two at once", "two workers on Ray"]
    busy = max(report["load_average"])
    besides = f" Other programs used the cores too (load average up to {busy:.1f})."
    place = f"{report['model']}, {report['rows']} rows, batches of {report['batch']}, {report['cores']} cores"
    said = f"{place}, in turn; pictures per second, means of the runs."
    return f"{said}{besides if busy > report['cores'] + 1 else ''}\n\n{table(head, rows)}"
