"""A comparison as files: Markdown, JSON, and quality over time as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stagevar.files import replacing
from stagevar.measure.bench.front import QUALITIES, measured, plot
from stagevar.measure.bench.warn import warnings
from stagevar.measure.markdown import table
from stagevar.measure.study.plots import available

COLUMNS = (
    "accelerator",
    "network s",
    "total s",
    "speed-up (quartiles)",
    "by operations",
    "oracle",
    "difference ± error",
    "relaxed",
    "SSIM",
    "worst tenth",
    "PSNR",
    "self-Frechet",
    "bands",
    "scales run",
    "rows",
    "GFLOP",
    "peak MB",
    "cache MB",
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
            plot(comparison, quality).savefig(temporary, format="png", dpi=120)
    return [*(folder / name for name in texts), *plots]


def markdown(comparison: Mapping[str, Any]) -> str:
    """The table with all that its figures depend on."""
    lines = [
        f"# Accelerators of {comparison['model']}",
        "",
        caption(comparison),
        "",
        table(COLUMNS, [cells(row, comparison["scales"]) for row in comparison["rows"]]),
        "",
        *(f"* Warning: {warning}." for warning in warnings(comparison)),
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
        "of the frequency bands (low to high, 1 is right) are relative to the first row with the same noise; the worst "
        "tenth of pictures has at most the SSIM of that column. The self-Frechet distance is to the first row, of 22 "
        "simple numbers of each picture, and no FID. Scales count from 0; rows and GFLOP are means per picture; memory "
        "is the process's (on CUDA the device's), and the largest cache of keys and values."
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
        f"{row['flop_ratio']:.2f}",
        _number(row["oracle"]),
        _difference(row["oracle_difference"], row["oracle_difference_error"]),
        _number(row["relaxed"]),
        _number(row["ssim"]) + _error(row["ssim_error"]),
        _number(row["ssim_low"]),
        f"{row['psnr']:.1f}",
        _number(row["self_frechet"]),
        " ".join(f"{band:.2f}" for band in row["bands"]),
        executed,
        f"{row['rows_processed']:.0f}",
        f"{row['flops'] / 1e9:.3g}",
        f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else "-",
        f"{row['cache_bytes'] / 1e6:.1f}",
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
