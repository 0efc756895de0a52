"""A comparison as files: Markdown, JSON, and quality over time as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stagevar.files import replacing
from stagevar.measure.markdown import table
from stagevar.measure.study.plots import available

Point = tuple[float, float]

QUALITIES = {"ssim": "SSIM to the plain run", "oracle": "oracle score"}
COLUMNS = (
    "accelerator",
    "network s",
    "total s",
    "speed-up (quartiles)",
    "oracle",
    "difference ± error",
    "relaxed",
    "SSIM",
    "PSNR",
    "bands",
    "scales run",
    "rows",
    "GFLOP",
)


def write(folder: Path, comparison: Mapping[str, Any]) -> list[Path]:
    """Write ``compare.json``, ``compare.md`` and one plot per quality that was measured; the files' paths.

    Args:
        comparison: as ``stagevar.measure.bench.compare.compare`` returns it.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: a file cannot be written.
    """
    available()
    texts = {"compare.json": json.dumps(comparison, indent=1) + "\n", "compare.md": markdown(comparison)}
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    plots = [folder / f"compare-{quality}.png" for quality in measured(comparison)]
    for path, quality in zip(plots, measured(comparison), strict=True):
        with replacing(path) as temporary:
            plot(temporary, comparison, quality)
    return [*(folder / name for name in texts), *plots]


def measured(comparison: Mapping[str, Any]) -> list[str]:
    """The qualities that have figures."""
    return [quality for quality in QUALITIES if comparison["rows"][0][quality] is not None]


def markdown(comparison: Mapping[str, Any]) -> str:
    """The table with all that its figures depend on."""
    lines = [
        f"# Accelerators of {comparison['model']}",
        "",
        caption(comparison),
        "",
        table(COLUMNS, [cells(row, comparison["scales"]) for row in comparison["rows"]]),
        "",
        *(f"![{QUALITIES[quality]} over network time](compare-{quality}.png)" for quality in measured(comparison)),
    ]
    if "parts" in comparison["rows"][0]:
        lines += ["", *_parts(comparison["rows"])]
    return "\n".join(lines) + "\n"


def caption(comparison: Mapping[str, Any]) -> str:
    """One paragraph: what was measured, on what, and what the figures mean."""
    height, width = comparison["size"]
    threads = f"{comparison['threads']} CPU thread{'s' * (comparison['threads'] > 1)}"
    rounded = f" with {comparison['quantize']} weights" if comparison.get("quantize") else ""
    return (
        f"Measured on {comparison['device']} ({threads}) in {comparison['dtype']}{rounded} with torch "
        f"{comparison['torch']}: {asked(comparison)}, {width}x{height} pixels, batch "
        f"{comparison['batch']}, guidance {comparison['guidance']}, seed {comparison['seed']}; "
        f"{comparison['warm_up']}, then batch by batch in turn. Seconds are sums over all captions; network time holds "
        "no text and no decoding. Speed-up is the median over batches of the first row's network time over this one's, "
        "for the same batch. Errors take captions as independent. SSIM, PSNR (100 for equal pictures) and the energy "
        "of the frequency bands (low to high, 1 is right) are relative to the first row with the same noise. Scales "
        "count from 0; rows and GFLOP are means per picture."
    )


def asked(comparison: Mapping[str, Any]) -> str:
    """What was drawn: how many captions, and where it is known how many of them are held out and how many different."""
    known = "held_out" in comparison
    detail = f" ({comparison['held_out']} of them held out, {comparison['different']} different)" if known else ""
    return f"{comparison['captions']} captions{detail}"


def cells(row: Mapping[str, Any], scales: int) -> list[str]:
    """One row of the table, in the order of ``COLUMNS``."""
    executed = f"{ranges(row['executed_scales'])} of {scales}"
    if row["executed_share"] < 1:
        executed += f" ({row['executed_share']:.0%} of pictures)"
    return [
        f"`{row['accelerator']}`",
        f"{row['network_seconds']:.2f}",
        f"{row['total_seconds']:.2f}",
        f"{row['speedup']:.2f} ({_range(row['speedup_quartiles'])})",
        _number(row["oracle"]),
        _difference(row["oracle_difference"], row["oracle_difference_error"]),
        _number(row["relaxed"]),
        _number(row["ssim"]) + _error(row["ssim_error"]),
        f"{row['psnr']:.1f}",
        " ".join(f"{band:.2f}" for band in row["bands"]),
        executed,
        f"{row['rows_processed']:.0f}",
        f"{row['flops'] / 1e9:.3g}",
    ]


def _range(ends: Sequence[float] | None) -> str:
    """Two ends; of one value there is no spread to show."""
    return "-" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _difference(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:+.3f}" + _error(error)


def _error(error: float | None) -> str:
    return "" if error is None else f" ± {error:.3f}"


def ranges(numbers: Sequence[int]) -> str:
    """``[0, 1, 2, 4]`` as ``0-2, 4``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _parts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(rows[0]["parts"])
    return [
        "Milliseconds by part, of one observed batch each (on a GPU longer than unobserved):",
        "",
        table(
            ["accelerator", *(name.replace("_", " ") for name in names)],
            [[f"`{row['accelerator']}`", *(f"{spent:.1f}" for spent in row["parts"].values())] for row in rows],
        ),
    ]


def plot(path: Path, comparison: Mapping[str, Any], quality: str) -> None:
    """Quality over network seconds per picture, a point per accelerator and the front as a line."""
    from matplotlib.figure import Figure

    count = comparison["captions"]
    points = {row["accelerator"]: (row["network_seconds"] / count, row[quality]) for row in comparison["rows"]}
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.step(*zip(*front(list(points.values())), strict=True), where="post", color="0.7", zorder=1)
    for name, point in points.items():
        axes.scatter(*point, zorder=2)
        axes.annotate(name, point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("network seconds per picture")
    axes.set_ylabel(QUALITIES[quality])
    height, width = comparison["size"]
    axes.set_title(
        f"{comparison['model']}, {width}x{height}, {comparison['device']}, {comparison['dtype']}, "
        f"batch {comparison['batch']}, {count} captions",
        fontsize=9,
    )
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=120)


def front(points: Sequence[Point]) -> list[Point]:
    """The (seconds, quality) points that no other beats in both, from the fastest on."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best
