"""Puts measured figures into README and docs: ``python benchmarks/report.py``.

Takes the newest run of each benchmark in ``results/`` and renews each block between ``<!-- figures: NAME -->`` and
``<!-- end of figures -->``, and ``docs/images/front.png``. ``--check`` changes nothing; it fails if a document is out
of date, or if a result was written by no run.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from store import RESULTS, newest, read

from stagevar.measure.markdown import table
from stagevar.measure.suites.known import SUITES
from stagevar.measure.suites.suite import composition

ROOT = Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "stagevar.md")
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.S)
SETTINGS = "stagevar", "stagevar(quality=0.15)", "stagevar(quality=0.0)"

Row = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for path in sorted(RESULTS.glob("*.jsonl")):
        list(read(path))
    old = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}
    new = {path: renewed(text) for path, text in old.items()}
    if options.check:
        sys.exit("out of date: run benchmarks/report.py" if new != old else 0)
    for path, text in new.items():
        path.write_text(text, encoding="utf-8")
    plot(result("front")["comparison"], ROOT / "docs" / "images" / "front.png")


def renewed(text: str) -> str:
    """A document with all its blocks made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]().rstrip()}\n\n{found[3]}", text)


def result(name: str) -> Any:
    return newest(name)


def is_ours(row: Row) -> bool:
    return bool(re.fullmatch(r"stagevar(\(quality=[\d.]+\))?", row["accelerator"]))


def conditions(found: Row) -> str:
    """What the figures hold for."""
    height, width = found["size"]
    drawn = composition(SUITES["scenes"], SUITES["scenes"].questions(found["captions"]))
    asked = f"{drawn['captions']} captions ({drawn['held_out']} held out, {drawn['different']} different)"
    return (
        f"{found['model']}, {width}x{height} pixels, {asked}, batch {found['batch']}, "
        f"guidance {found['guidance']}, {found['dtype']}, {found['device']} with {found['threads']} threads, torch "
        f"{found['torch']}; all in one process, picture by picture in turn, {found['warm_up'].split(',')[0]}"
    )


def front() -> str:
    """The whole comparison, fastest last."""
    found = result("front")["comparison"]
    plain = found["rows"][0]
    rows = []
    for row in sorted(found["rows"], key=lambda row: row["speedup"]):
        low, high = row["speedup_quartiles"]
        name = f"`{row['accelerator']}`"
        rows.append(
            [
                f"**{name}**" if is_ours(row) else name,
                f"{row['speedup']:.2f} ({low:.2f} to {high:.2f})",
                f"{row['total_speedup']:.2f}",
                f"{plain['flops'] / row['flops']:.2f}",
                f"{row['ssim']:.3f}",
                f"{row['psnr']:.1f}",
                f"{row['oracle']:.3f}",
                f"{row['oracle_difference']:+.3f} ± {row['oracle_difference_error']:.3f}",
                scales(row["executed_scales"], found["scales"]),
            ]
        )
    head = "accelerator|network speed-up (quartiles)|with text and decoding|by operations|SSIM|PSNR|oracle|difference"
    return f"{conditions(found)}.\n\n{table([*head.split('|'), 'scales run'], rows)}"


def scales(executed: Sequence[int], count: int) -> str:
    return "all" if len(executed) == count else f"{len(executed)} of {count}"


def at_speed(ours: Sequence[Row], speed: float, quality: str) -> float | None:
    """Our quality at a speed-up, linear between measured settings."""
    for slow, fast in pairwise(sorted(ours, key=lambda row: row["speedup"])):
        if slow["speedup"] <= speed <= fast["speedup"]:
            part = (speed - slow["speedup"]) / (fast["speedup"] - slow["speedup"])
            return float(slow[quality] + part * (fast[quality] - slow[quality]))
    return None


def duel() -> str:
    """Every other accelerator against our front at the same network time."""
    found = result("front")["comparison"]
    others = found["rows"][1:]
    ours, rows, losses = [row for row in others if is_ours(row)], [], []
    for row in sorted((row for row in others if not is_ours(row)), key=lambda row: row["speedup"]):
        ssim, oracle = (at_speed(ours, row["speedup"], quality) for quality in ("ssim", "oracle"))
        cells = [f"`{row['accelerator']}`", f"{row['speedup']:.2f}", f"{row['ssim']:.3f}"]
        if ssim is None or oracle is None:
            rows.append([*cells, "outside the dial", f"{row['oracle']:.3f}", "outside the dial"])
            continue
        rows.append([*cells, f"**{ssim:.3f}**", f"{row['oracle']:.3f}", f"**{oracle:.3f}**"])
        losses += [f"`{row['accelerator']}` in SSIM"] if row["ssim"] >= ssim else []
        losses += [f"`{row['accelerator']}` in the oracle's score"] if row["oracle"] > oracle else []
    verdict = f"Not above: {', '.join(losses)}." if losses else "Ours is above in both measures where the dial reaches."
    head = ["at the time of", "speed-up", "its SSIM", "ours", "its oracle", "ours"]
    return f"{table(head, rows)}\n\n{verdict}"


def targets() -> str:
    """The settings that users meet first: the default and the fast end."""
    found = result("front")["comparison"]
    by_name = {row["accelerator"]: row for row in found["rows"]}
    lines = [
        f"`{name}`: network {row['speedup']:.2f}x faster ({found['rows'][0]['flops'] / row['flops']:.2f}x by "
        f"operations), SSIM to the plain run {row['ssim']:.3f}, oracle {row['oracle']:.3f} "
        f"({row['oracle_difference']:+.3f} ± {row['oracle_difference_error']:.3f})."
        for name, row in ((name, by_name[name]) for name in SETTINGS)
    ]
    return "\n".join(f"* {line}" for line in lines) + f"\n\nMeasured on {conditions(found)}.\n"


def ablations() -> str:
    found = result("ablations")
    rows = [
        [
            row["variant"],
            f"{row['flop_ratio']:.2f}",
            f"{row['ssim']:.3f}",
            f"{row['psnr']:.1f}",
            f"{row['oracle']:.3f}",
        ]
        for row in found["rows"]
    ]
    head = ["variant", "fewer operations", "SSIM", "PSNR", "oracle"]
    return f"{found['captions']} captions; kept {found['kept'][0]} and {found['kept'][1]}.\n\n{table(head, rows)}"


def long() -> str:
    found = result("front")["long"]
    rows = [
        [
            f"`{row['accelerator']}`",
            f"{row['network_seconds']['median']:.2f} ({row['network_seconds']['min']:.2f} to "
            f"{row['network_seconds']['max']:.2f})",
            f"{row['speedup']:.2f}",
            f"{row['flop_ratio']:.2f}",
            scales(row["executed_scales"], 13),
        ]
        for row in found["rows"]
    ]
    head = ["accelerator", "network seconds (range)", "speed-up", "by operations", "scales run"]
    about = f"{found['model']}; 1024x1024, 13 scales, batch {found['batch']}, {found['dtype']}, {found['device']} with"
    return f"{about} {found['threads']} threads, median of {found['repeats']}.\n\n{table(head, rows)}"


def stages() -> str:
    found = result("stages")
    rows = [
        [
            row["caption"],
            f"{row['single']['mean']:.1f} ± {row['single']['std']:.1f}",
            f"{row['fidelity']['mean']:.1f} ± {row['fidelity']['std']:.1f}",
            f"{row['kept']['mean']:.2f} ± {row['kept']['std']:.2f}",
            f"{row['rows']['mean']:.0f} ± {row['rows']['std']:.0f}",
        ]
        for row in found["rows"]
    ]
    head = ["caption", "first scale with one branch", "first fidelity scale", "kept at the last scale", "rows"]
    spread = found["spread"]
    return (
        f"{found['seeds']} seeds each, `{found['accelerator']}`; mean ± standard deviation over seeds. Scales count "
        f"from 0.\n\n{table(head, rows)}\n\nOver {found['captions']} captions: boundary of guidance "
        f"{spread['single']['within']:.2f} within a caption (over seeds), {spread['single']['between']:.2f} between "
        f"captions; kept share {spread['kept']['within']:.3f} within, {spread['kept']['between']:.3f} between.\n"
    )


BLOCKS: Mapping[str, Callable[[], str]] = {
    "front": front,
    "duel": duel,
    "targets": targets,
    "ablations": ablations,
    "long": long,
    "stages": stages,
}


def plot(found: Row, path: Path) -> None:
    """SSIM and oracle score over speed-up: our front as a line, everything else as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    rows = found["rows"][1:]
    ours = sorted((row for row in rows if is_ours(row)), key=lambda row: row["speedup"])
    for axis, quality, label in zip(axes, ("ssim", "oracle"), ("SSIM to the plain run", "oracle score"), strict=True):
        axis.plot([r["speedup"] for r in ours], [r[quality] for r in ours], "o-", label="stagevar, the dial")
        for row in rows:
            if not is_ours(row):
                axis.plot(row["speedup"], row[quality], "x", color="0.4")
                axis.annotate(
                    row["accelerator"],
                    (row["speedup"], row[quality]),
                    xytext=(4, -9),
                    textcoords="offset points",
                    fontsize=7,
                )
        if quality == "oracle":
            axis.axhline(found["rows"][0]["oracle"], color="0.7", linestyle="--", label="plain run")
        axis.set_xlabel("network speed-up, plain run = 1")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.margins(x=0.15)
        axis.legend(loc="upper right")
    figure.suptitle(f"{found['model']}, {found['captions']} captions, batch {found['batch']}, {found['device']}")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
