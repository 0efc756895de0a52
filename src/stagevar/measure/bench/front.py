"""The front of a comparison as a plot: quality over speed, every point with its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stagevar.measure.bench.labels import placed
from stagevar.measure.study.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]

QUALITIES = {"ssim": "SSIM to the plain run", "oracle": "oracle score"}


def measured(comparison: Mapping[str, Any]) -> list[str]:
    """The qualities that have figures."""
    return [quality for quality in QUALITIES if comparison["rows"][0][quality] is not None]


def plot(comparison: Mapping[str, Any], quality: str) -> Figure:
    """Quality over network seconds per picture, a point per accelerator and the front as a line."""
    from matplotlib.figure import Figure

    count = comparison["captions"] * comparison["seeds"]
    points = [(row["network_seconds"] / count, row[quality]) for row in comparison["rows"]]
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    axes.step(*zip(*front(points), strict=True), where="post", color="0.7", zorder=1)
    x, y = zip(*points, strict=True)
    axes.scatter(x, y, zorder=2, s=18, color=COLOURS[0])
    errors = [row.get(f"{quality}_error") for row in comparison["rows"]]
    if None not in errors and any(errors):
        axes.errorbar(x, y, yerr=errors, linestyle="none", color="0.6", capsize=2, zorder=1)
    axes.set_xlabel("network seconds per picture")
    axes.set_ylabel(QUALITIES[quality])
    height, width = comparison["size"]
    axes.set_title(
        f"{comparison['model']}, {width}x{height}, {comparison['device']}, {comparison['dtype']}, "
        f"batch {comparison['batch']}, {comparison['captions']} captions",
        fontsize=9,
    )
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    name(axes, points, [row["accelerator"] for row in comparison["rows"]])
    return figure


def name(axes: Axes, points: Sequence[Point], names: Sequence[str]) -> None:
    """Write names beside points, with a line to each that had to move away."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(axes.get_figure(root=True))
    canvas.draw()  # fixes the layout, in which places are found
    look: dict[str, Any] = {"fontsize": 7, "va": "bottom", "transform": axes.transAxes, "in_layout": False}
    texts = [axes.text(0, 0, text, **look) for text in names]
    pixels = [tuple(map(float, axes.transData.transform(point))) for point in points]
    extents = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    room = axes.get_window_extent(canvas.get_renderer()).extents
    boxes = placed(
        [(x, y) for x, y in pixels],
        [(extent.width + 2, extent.height + 1) for extent in extents],
        (float(room[0]), float(room[1]), float(room[2]), float(room[3])),
    )
    for text, (x, y), box in zip(texts, pixels, boxes, strict=True):
        left, bottom = axes.transAxes.inverted().transform((box[0] + 1, box[1]))
        text.set_position((float(left), float(bottom)))
        near = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
        if abs(near[0] - x) + abs(near[1] - y) > 12:
            ends = axes.transData.inverted().transform([(x, y), near])
            axes.plot(*zip(*ends, strict=True), color="0.8", linewidth=0.6, zorder=0, scalex=False, scaley=False)


def front(points: Sequence[Point]) -> list[Point]:
    """The (seconds, quality) points that no other beats in both, from the fastest on."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best
