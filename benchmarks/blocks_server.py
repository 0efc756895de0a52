"""Measured figures of the server as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagevar.measure.markdown import table

Row = Mapping[str, Any]


def server(report: Row) -> str:
    share = report["first_partial_share"]
    rows = [
        [
            f"`{row['accelerator']}`",
            *(f"{row[how]['pictures_per_second']:.2f}" for how in ("one_by_one", "batched")),
            f"{row['batched']['pictures_per_second'] / row['one_by_one']['pictures_per_second']:.2f}x",
            *(f"{row['batched'][name]:.2f}" for name in ("p50", "p95", "p99")),
            *(str(row["batched"][name] + row["one_by_one"][name]) for name in ("pictures", "wrong", "lost")),
        ]
        for row in report["rows"]
    ]
    head = ["accelerator", "one by one, pictures/s", "batches, pictures/s", "gain", "p50, s", "p95, s", "p99, s"]
    alone, served, beside = (report[f"{name}_seconds"]["median"] for name in ("process", "server", "beside"))
    return (
        f"scenes, {place(report)}.\n\n"
        f"* A lone picture takes {alone:.3f} s in the process and {served:.3f} s through the server (medians), "
        f"{beside * 1e3:.0f} ms of them ({beside / served:.1%}) for anything but drawing.\n"
        f"* The first of `partial_images=1` comes after {share['median']:.0%} of the time of the whole stream.\n\n"
        f"{report['clients']} clients that ask again as soon as they are answered:\n\n"
        f"{table([*head, 'pictures', 'wrong', 'lost'], rows)}"
    )


def load(report: Row) -> str:
    head = ["requests", "pictures", "wrong", "lost", "refused", "left", "p50, s", "p95, s", "p99, s"]
    names = "pictures", "wrong", "lost", "refused", "left"
    seconds = "p50", "p95", "p99"
    kinds = (
        (f"of {report['clients']} clients in a loop", "closed"),
        (f"{report['rate']:.1f} a second at random", "open"),
    )
    rows = [
        [words, *(str(report[kind][name]) for name in names), *(f"{report[kind][name]:.2f}" for name in seconds)]
        for words, kind in kinds
    ]
    memory = report["resident_bytes"]
    quarters, idle = (", ".join(f"{size / 2**20:.0f}" for size in memory[name]) for name in ("quarters", "idle"))
    what = "scenes and two small random models of other sizes, five accelerators, a tenth of the clients leave"
    said = (
        "The server's memory in MiB without requests, after a minute of such load, half way and at the end: "
        f"{idle} ({memory['growth']:+.1%}); the highest"
    )
    return (
        f"{what}; {report['minutes']:g} minutes, {place(report)}.\n\n{table(head, rows)}\n\n"
        f"{said} of each quarter of the time, which follows the largest batch: {quarters}."
    )


def place(report: Row) -> str:
    return f"{report['dtype']}, {report['device']} with {report['cores']} cores, torch {report['torch']}"
