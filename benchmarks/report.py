"""Puts measured figures into README and docs: ``python benchmarks/report.py``.

Takes the newest run of each benchmark in ``results/`` on each kind of device, and what the accelerators' classes say
of themselves, and renews each block between
``<!-- figures: NAME -->`` and ``<!-- end of figures -->``, and ``docs/images/front.png``. ``--check`` changes nothing;
it fails if a document is out of date, or if a result was written by no run.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from blocks import BLOCKS, Row, is_ours
from blocks_forecast import forecast
from blocks_ranking import ranking, searches
from blocks_restore import restoration
from blocks_rivals import catalogue, claims, lazy, skips
from blocks_suites import suites
from store import RESULTS, ROOT, SQUASHED, newest, read, unknown_commits

from stagevar.measure.bench.front import name

DOCUMENTS = ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))
PAGES = {"catalogue": catalogue, "forecast": forecast, "restoration": restoration, "suites": suites}
"""Blocks that no benchmark measures."""
RIVALS = {"claims": claims, "lazy": lazy, "skips": skips, "ranking": ranking}
MORE = {name: ("front", shown) for name, shown in RIVALS.items()}
MORE |= {f"{world}_ranking": (world, ranking) for world in ("photos", "texture")}
MORE |= {name: (name, searches) for name in ("searches", "photos_searches")}
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        new = {path: renewed(path.read_text(encoding="utf-8")) for path in DOCUMENTS}
        for path in sorted(RESULTS.glob("*.jsonl")):
            list(read(path))
    except ValueError as error:
        sys.exit(str(error))
    if strange := unknown_commits():
        sys.exit(f"results name commits that this history does not hold: {', '.join(strange)}")
    if options.check:
        old = [path.name for path, text in new.items() if path.read_text(encoding="utf-8") != text]
        sys.exit(f"out of date: {', '.join(old)}; run benchmarks/report.py" if old else 0)
    for path, text in new.items():
        path.write_text(text, encoding="utf-8")
    plot(next(iter(newest("front").values()))["report"]["comparison"], ROOT / "docs" / "images" / "front.png")


def renewed(text: str) -> str:
    """A document with all its blocks made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{block(found[2])}\n\n{found[3]}", text)


def block(name: str) -> str:
    """The figures of every kind of device, each with where they come from; or a page that no benchmark measures."""
    if name in PAGES:
        return PAGES[name]()
    benchmark, shown = {**BLOCKS, **MORE}[name]
    return "\n\n".join(f"{shown(run['report'])}\n\n{origin(run)}" for run in newest(benchmark).values())


def origin(run: dict[str, Any]) -> str:
    """Date and commit; runs of before results were appended are known by the commit that added them."""
    what = f"`{run['command']}` on" if run["command"] else "Committed on"
    changes = " with changes" if run["commit"].endswith("-dirty") else ""
    squashed = ", since squashed" if run["commit"].removesuffix("-dirty") in SQUASHED else ""
    return f"{what} {run['date'][:10]}, commit {run['commit'][:7]}{changes}{squashed}."


def plot(found: Row, path: Path) -> None:
    """SSIM and oracle score over speed-up: our front as a line, the others at their defaults and the controls as
    points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.5), layout="constrained")
    axes = figure.subplots(1, 2)
    rows = found["rows"][1:]
    ours = sorted((row for row in rows if is_ours(row)), key=lambda row: row["speedup"])
    others = [row for row in rows if not is_ours(row) and re.fullmatch(r"\w+(\(\d\))?", row["accelerator"])]
    for axis, quality, label in zip(axes, ("ssim", "oracle"), ("SSIM to the plain run", "oracle score"), strict=True):
        axis.plot([r["speedup"] for r in ours], [r[quality] for r in ours], "o-", label="stagevar, the dial")
        axis.plot([r["speedup"] for r in others], [r[quality] for r in others], "x", color="0.4")
        axis.axhline(found["rows"][0][quality], color="0.7", linestyle="--", label="plain run")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}x")
        axis.set_xlabel("network speed-up")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.margins(x=0.12)
        axis.legend(loc="lower left", fontsize=8)
    for axis, quality in zip(axes, ("ssim", "oracle"), strict=True):
        name(axis, [(row["speedup"], row[quality]) for row in others], [row["accelerator"] for row in others])
    figure.suptitle(f"{found['model']}, {found['captions']} captions, batch {found['batch']}, {found['device']}")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
