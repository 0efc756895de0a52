"""One PNG that shows why a picture is as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagevar.measure.study.plots import COLOURS, DASHES, MARKERS, available
from stagevar.measure.why.comparison import Comparison
from stagevar.measure.why.maps import difference, mean_share, shaded
from stagevar.saved import marked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

MARK = "stagevar why"
"""Text field of a PNG file that is a sheet."""

PLAIN, OWN = "#999999", COLOURS[0]


def write_sheet(path: Path, comparison: Comparison, answer: Mapping[str, Any]) -> None:
    """Pictures, where rows ran at each scale, what each scale cost, and what decided.

    Args:
        path: of the PNG; the caller sees to it that nothing of others is there.
        comparison: drawn to its end.
        answer: as ``why.answer`` has it.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    available()
    from matplotlib.figure import Figure

    decided = any(row["reasons"] for row in answer["scales"])
    heights = (3.4, 1.5, 2.6, 2.6) if decided else (3.4, 1.5, 2.6)
    width = max(11.0, 1.1 * len(answer["scales"]))
    figure = Figure(figsize=(width, sum(heights) + 0.6), layout="constrained")
    top, middle, *charts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    drawn = f"{answer['prompt']}, seed {answer['seed']}"
    figure.suptitle(f"{drawn}: {answer['accelerator']} on {answer['model']}", fontsize=11)
    _pictures(top, comparison, answer)
    _places(middle, comparison, answer["scales"])
    _costs(charts[0], answer["scales"])
    if decided:
        _reasons(charts[1], answer["scales"])
    figure.savefig(path, format="png", dpi=110, metadata={MARK: f"{answer['accelerator']} on {answer['model']}"})


def is_sheet(path: Path) -> bool:
    """Whether a file is what ``write_sheet`` writes."""
    return marked(path, MARK)


def _pictures(figure: SubFigure, comparison: Comparison, answer: Mapping[str, Any]) -> None:
    plain, own = comparison.plain.previews[-1], comparison.accelerated.previews[-1]
    changed = answer["changed"]
    shown = {
        f"plain run, {answer['plain_milliseconds']:.0f} ms": plain,
        f"accelerated, {answer['milliseconds']:.0f} ms": own,
        f"difference: SSIM {changed['ssim']:.3f}, {changed['psnr']:.1f} dB": difference(plain, own),
        f"rows that ran: operations / {answer['fewer_operations']:.2f}": shaded(own, mean_share(comparison.shares)),
    }
    for axes, (title, image) in zip(figure.subplots(1, 4), shown.items(), strict=True):
        axes.imshow(image)
        axes.set_title(title, fontsize=9)
        axes.axis("off")


def _places(figure: SubFigure, comparison: Comparison, rows: Sequence[Mapping[str, Any]]) -> None:
    """The picture after each scale, dark where few rows ran."""
    images = [shaded(*each) for each in zip(comparison.accelerated.previews, comparison.shares, strict=True)]
    for axes, image, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], images, rows, strict=True):
        axes.imshow(image)
        kept = row["run"] if row["run"] == "skip" else f"{row['kept']:.0%}"
        axes.set_title(f"{row['grid']}\n{row['stage'] or ''} {kept}".replace("\n ", "\n"), fontsize=7)
        axes.axis("off")


def _costs(figure: SubFigure, rows: Sequence[Mapping[str, Any]]) -> None:
    names = {"rows": "token rows", "milliseconds": "milliseconds", "gflop": "GFLOP"}
    for axes, (name, title) in zip(figure.subplots(1, len(names)), names.items(), strict=True):
        for shift, whose, colour, label in ((-0.2, "plain_", PLAIN, "plain"), (0.2, "", OWN, "accelerated")):
            heights = [row[f"{whose}{name}"] for row in rows]
            axes.bar([k + shift for k in range(len(rows))], heights, 0.4, color=colour, label=label)
        _scales(axes, rows, title)
        axes.legend(fontsize=7)


def _reasons(figure: SubFigure, rows: Sequence[Mapping[str, Any]]) -> None:
    """A panel for each number that decided, with what it was held against."""
    names = dict.fromkeys(reason["about"] for row in rows for reason in row["reasons"])
    for i, (axes, name) in enumerate(zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True)):
        found = [(row["scale"], each) for row in rows for each in row["reasons"] if each["about"] == name]
        scales, values, bounds = zip(*((k, each["value"], each["bound"]) for k, each in found), strict=True)
        axes.plot(scales, values, marker=MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], label="measured")
        if None not in bounds:
            axes.plot(scales, bounds, linestyle=DASHES[1], color="black", label="held against")
        if min(values) > 0:
            axes.set_yscale("log")
        for j, k in enumerate(row["scale"] for row in rows if row["revised"]):
            axes.axvline(k, color="#cccccc", linewidth=4, zorder=0, label="" if j else "plan revised")
        axes.legend(fontsize=7)
        _scales(axes, rows, name)


def _scales(axes: Axes, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(rows)), [row["grid"] for row in rows], rotation=60, fontsize=7)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="y", which="both", labelsize=7)
