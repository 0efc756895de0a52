"""Measured figures of the server as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagevar.measure.markdown import table

Row = Mapping[str, Any]


def server(report: Row) -> str:
    process, through = report["process_seconds"], report["server_seconds"]
    share, batched, single = (report[name] for name in ("first_partial_share", "batched", "one_by_one"))
    pictures = batched["pictures"] + single["pictures"]
    return "\n".join(
        [
            f"scenes with accelerator `{report['accelerator']}`, {place(report)}.",
            "",
            f"* A lone picture: {process['median']:.3f} s in the process, {through['median']:.3f} s through the server "
            f"(medians): {report['overhead']:+.1%}.",
            f"* The first of `partial_images=1` comes after {share['median']:.0%} of the time of the whole stream "
            f"({share['min']:.0%} to {share['max']:.0%}).",
            f"* {report['clients']} clients that ask again as soon as they are answered: "
            f"{batched['pictures_per_second']:.2f} pictures a second in batches, "
            f"{single['pictures_per_second']:.2f} one by one: {report['gain']:.2f}x.",
            f"* Of these {pictures} pictures {batched['wrong'] + single['wrong']} differ from the one made alone, "
            f"{batched['lost'] + single['lost']} were lost.",
        ]
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
    quarters = ", ".join(f"{size / 2**20:.0f}" for size in report["resident_bytes"]["quarters"])
    what = "scenes and a random model of several sizes, five accelerators, a tenth of the clients leave"
    memory = "The server's memory in MiB, highest of each quarter of the time"
    return (
        f"{what}; {report['minutes']:g} minutes, {place(report)}.\n\n{table(head, rows)}\n\n"
        f"{memory}: {quarters} ({report['resident_bytes']['growth']:+.1%})."
    )


def place(report: Row) -> str:
    return f"{report['dtype']}, {report['device']} with {report['cores']} cores, torch {report['torch']}"
