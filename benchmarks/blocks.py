"""Measured figures as Markdown: one function per block of the documents, each given one run of a benchmark."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from blocks_editing import editing
from blocks_jobs import jobs, kills, workers
from blocks_memory import batches, half, loading, memory
from blocks_pictures import reached, stages
from blocks_server import load, server

from stagevar.measure.bench.table import asked
from stagevar.measure.markdown import table

SETTINGS = "stagevar", "stagevar(quality=0.15)", "stagevar(quality=0.0)"

Row = Mapping[str, Any]


def is_ours(row: Row) -> bool:
    return bool(re.fullmatch(r"stagevar(\(quality=[\d.]+\))?", row["accelerator"]))


def conditions(found: Row) -> str:
    """What the figures of a comparison hold for."""
    height, width = found["size"]
    return (
        f"{found['model']}, {width}x{height} pixels, {asked(found)}, batch {found['batch']}, guidance "
        f"{found['guidance']}, {ran_on(found)}; all in one process, picture by picture in turn, "
        f"{found['warm_up'].split(',')[0]}"
    )


def ran_on(found: Row) -> str:
    """Dtype and machine."""
    place = found.get("processor") if found["device"] == "cuda" else found["device"]
    return f"{found['dtype']}, {place} with {found['threads']} threads, torch {found['torch']}"


def targets(report: Row) -> str:
    """The settings that users meet first: the default and the fast end."""
    found = report["comparison"]
    plain, by_name = found["rows"][0], {row["accelerator"]: row for row in found["rows"]}
    lines = [
        f"* `{name}`: network {row['speedup']:.2f}x faster (median over pictures; {in_sum(plain, row):.2f}x in summed "
        f"time, {plain['flops'] / row['flops']:.2f}x by operations), SSIM to the plain run {measured(row, 'ssim')}, "
        f"oracle {row['oracle']:.3f} ({difference(row)})."
        for name, row in ((name, by_name[name]) for name in SETTINGS)
    ]
    return "\n".join(lines) + f"\n\nMeasured on {conditions(found)}. {step(found)}"


def front(report: Row) -> str:
    """The whole comparison, fastest last."""
    found = report["comparison"]
    plain = found["rows"][0]
    rows = []
    for row in sorted(found["rows"], key=lambda row: row["speedup"]):
        low, high = row["speedup_quartiles"]
        name = f"`{row['accelerator']}`"
        rows.append(
            [
                f"**{name}**" if is_ours(row) else name,
                f"{row['speedup']:.2f} ({low:.2f} to {high:.2f})",
                f"{in_sum(plain, row):.2f}",
                f"{row['total_speedup']:.2f}",
                f"{plain['flops'] / row['flops']:.2f}",
                measured(row, "ssim"),
                f"{row['ssim_low']:.3f}",
                f"{row['psnr']:.1f}",
                f"{row['self_frechet']:.2f}",
                " ".join(f"{band:.2f}" for band in row["bands"]),
                f"{row['oracle']:.3f}",
                difference(row),
                scales(row["executed_scales"], found["scales"]),
            ]
        )
    head = "accelerator|network speed-up (quartiles)|in summed time|with text and decoding|by operations|SSIM"
    head += "|worst tenth|PSNR|self-Frechet|bands|oracle|difference|scales run"
    return f"{conditions(found)}. {step(found)}\n\n{table(head.split('|'), rows)}"


def in_sum(plain: Row, row: Row) -> float:
    """Ratio of the network's seconds over all pictures; the median of ratios counts slow pictures less."""
    return float(plain["network_seconds"] / row["network_seconds"])


def measured(row: Row, name: str) -> str:
    """A mean with its standard error, where that was measured."""
    error = row.get(f"{name}_error")
    return f"{row[name]:.3f}" + ("" if error is None else f" ± {error:.3f}")


def difference(row: Row) -> str:
    """What the oracle's score changes by, with the standard error of that where there is one."""
    error = row["oracle_difference_error"]
    return f"{row['oracle_difference']:+.3f}" + ("" if error is None else f" ± {error:.3f}")


def step(found: Row) -> str:
    """What one picture is worth, and what the errors are over."""
    over = found.get("errors_over", "pictures")
    same = " although some have the same caption" if over == "pictures" else ""
    one = 1 / found["captions"]
    return f"One picture is {one:.4f} of the oracle's score; errors take {over} as independent{same}."


def scales(executed: Sequence[int], count: int) -> str:
    return "all" if len(executed) == count else f"{len(executed)} of {count}"


def duel(report: Row) -> str:
    """Every other accelerator against our front at the same network time."""
    found = report["comparison"]
    others = found["rows"][1:]
    ours = [row for row in others if is_ours(row)]
    rows = []
    verdicts: dict[str, dict[str, list[str]]] = {name: {"above": [], "like": [], "below": []} for name in MARGINS}
    for row in sorted((row for row in others if not is_ours(row)), key=lambda row: row["speedup"]):
        cells = [f"`{row['accelerator']}`", f"{row['speedup']:.2f}"]
        for name, margin in MARGINS.items():
            mine = at_speed(ours, row["speedup"], name)
            if mine is None:
                cells += [f"{row[name]:.3f}", "outside the dial"]
                continue
            word = verdict(mine - row[name], margin(found))
            verdicts[name][word].append(f"`{row['accelerator']}`")
            cells += [f"{row[name]:.3f}", f"**{mine:.3f}**" if word == "above" else f"{mine:.3f}"]
        rows.append(cells)
    head = ["at the time of", "speed-up", "its SSIM", "ours", "its oracle", "ours"]
    lines = []
    for name, words in verdicts.items():
        told = [f"{word} {', '.join(who)}" for word, who in words.items() if who]
        lines.append(f"* {NAMES[name]}: ours is {'; '.join(told)}.")
    lines += [
        "",
        "Like another is what differs by less than .001 in SSIM, or by less than one picture in the oracle's score.",
    ]
    return f"{table(head, rows)}\n\n" + "\n".join(lines)


NAMES = {"ssim": "SSIM", "oracle": "Oracle"}
MARGINS: Mapping[str, Callable[[Row], float]] = {"ssim": lambda _: 1e-3, "oracle": lambda found: 1 / found["captions"]}
"""Quality and the difference below which two values of it count as like one another."""


def verdict(gap: float, margin: float) -> str:
    return "like" if abs(gap) < margin else "above" if gap > 0 else "below"


def at_speed(ours: Sequence[Row], speed: float, quality: str) -> float | None:
    """Our quality at a speed-up, linear between measured settings."""
    for slow, fast in pairwise(sorted(ours, key=lambda row: row["speedup"])):
        if slow["speedup"] <= speed <= fast["speedup"]:
            part = (speed - slow["speedup"]) / (fast["speedup"] - slow["speedup"])
            return float(slow[quality] + part * (fast[quality] - slow[quality]))
    return None


def ablations(report: Row) -> str:
    """One table for all worlds: a row per variant, three figures per world."""
    worlds, names = report["worlds"], ("flop_ratio", "ssim", "oracle")
    head = ["variant"] + [f"{world['model']}: {each}" for world in worlds for each in ("operations", "SSIM", "reader")]
    rows = []
    for same in zip(*(world["rows"] for world in worlds), strict=True):
        figures = [f"{row[name]:.{2 if name == 'flop_ratio' else 3}f}" for row in same for name in names]
        rows.append([same[0]["variant"], *figures])
    kept = " and ".join(map(str, report["kept"]))
    return f"{worlds[0]['captions']} captions; kept {kept}; operations as a ratio.\n\n{table(head, rows)}"


def long(report: Row) -> str:
    found = report["long"]
    rows = [
        [
            f"`{row['accelerator']}`",
            spread(row["network_seconds"]),
            f"{row['speedup']:.2f}",
            f"{row['flop_ratio']:.2f}",
            scales(row["executed_scales"], 13),
        ]
        for row in found["rows"]
    ]
    head = ["accelerator", "network seconds (range)", "speed-up", "by operations", "scales run"]
    about = f"{found['model']}; 1024x1024, 13 scales, batch {found['batch']}, {found['dtype']}, {found['device']} with"
    return f"{about} {found['threads']} threads, median of {found['repeats']}.\n\n{table(head, rows)}"


def spread(values: Row) -> str:
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"


def plain(report: Row) -> str:
    """Our plain run against the twin of the authors' code."""
    rows = [
        [
            row["shape"],
            "x".join(map(str, reversed(row["size"]))),
            row["dtype"],
            str(row["batch"]),
            f"{row['seconds']:.2f}",
            f"{row['reference_seconds']:.2f}",
            *(f"{row[name]:.2f}x" for name in ("ratio", "network_ratio", "decoder_ratio")),
            f"{row['network_seconds']:.2f}",
            f"{row['network_limit_seconds']:.2f}",
            f"{row['kv_bytes'] / row['reference_kv_bytes']:.2f}",
            str(len(row["executed_scales"])),
        ]
        for row in report["rows"]
    ]
    head = ["shape", "pixels", "dtype", "batch", "seconds", "twin", "whole", "network", "decoder"]
    head += ["network, s", "limit, s", "KV bytes", "scales"]
    place = report.get("processor", report["device"])
    missing = ", ".join(f"{each['shape']} in {each['dtype']} at batch {each['batch']}" for each in report["left_out"])
    return (
        f"{place} with {report['threads']} threads, torch {report['torch']}; medians of {report['repeats']} turns "
        f"after a warm-up.{f' Not run, for want of time: {missing}.' if missing else ''}\n\n{table(head, rows)}"
    )


def busy(report: Row) -> str:
    """Seconds of a picture alone and beside a busy process."""
    rows = [
        [
            row["waiting"],
            row["spins"],
            spread(row["alone_seconds"]),
            spread(row["busy_seconds"]),
            f"{row['ratio']:.2f}x",
        ]
        for row in report["rows"]
    ]
    head = ["threads wait as set by", "turns", "seconds alone (range)", "seconds beside it (range)", "slower"]
    return (
        f"{report['model']}, {report['dtype']}, batch {report['batch']}, {report['threads']} threads on "
        f"{report['cores']} cores, torch {report['torch']}; {report['repeats']} pictures after a warm-up.\n\n"
        f"{table(head, rows)}"
    )


def shares(report: Row) -> str:
    """Time outside matrix products and attention, at the first and at the last scales."""
    rows = []
    for row in report["rows"]:
        first, last = row["outside"][:3], row["outside"][-3:]
        rows.append([row["model"], row["dtype"], *(f"{100 * share:.0f}%" for share in (*first, *last))])
    head = ["model", "dtype", "scale 1", "2", "3", "third from the end", "second", "last"]
    return f"Batch 1, {report['threads']} threads, torch {report['torch']}.\n\n{table(head, rows)}"


BLOCKS: Mapping[str, tuple[str, Callable[[Row], str]]] = {
    "targets": ("front", targets),
    "front": ("front", front),
    "duel": ("front", duel),
    "long": ("front", long),
    "photos": ("photos", front),
    "photos_duel": ("photos", duel),
    "texture": ("texture", front),
    "texture_duel": ("texture", duel),
    "ablations": ("ablations", ablations),
    "stages": ("stages", stages),
    "editing": ("editing", editing),
    "reached": ("reached", reached),
    "plain": ("plain", plain),
    "busy": ("busy", busy),
    "shares": ("shares", shares),
    "memory": ("memory", memory),
    "whole": ("whole", memory),
    "loading": ("loading", loading),
    "batches": ("batches", batches),
    "half": ("batches", half),
    "server": ("server", server),
    "load": ("load", load),
    "jobs": ("jobs", jobs),
    "kills": ("kills", kills),
    "workers": ("workers", workers),
}
"""Name of a block: the benchmark that it shows, and how."""
