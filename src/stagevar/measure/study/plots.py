"""The plots of a study: one PNG each, scales from left to right, the stages of its profile shaded.

Colours are those of Okabe and Ito, told apart by every kind of colour vision, and no line is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from stagevar.engine.plan.plan import STAGES
from stagevar.errors import MissingExtraError
from stagevar.files import replacing
from stagevar.measure.study.curves import Curve, Study
from stagevar.measure.study.spectrum import ENERGIES, rank_name
from stagevar.profile import Rule, StageProfile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MARKERS = "osD^vPX"
SHADES = ("#dbe9f6", "#fdf0d5", "#f1f1f1")
DOTS = 150

LABELS = {
    "objects": "objects found (colours)",
    "agreement": "objects found (colours, shapes)",
    "strict": "verdict: strict",
    "relaxed": "verdict: relaxed",
    "layout": "layout (coarse colours)",
    "contours": "edges at half resolution",
    "edges": "edges",
    "ssim": "SSIM",
    "psnr": "PSNR",
    "clip": "CLIP",
    "dino": "DINO",
    "lpips": "1 - LPIPS",
    "dists": "1 - DISTS",
    "flips": "codes that guidance flips",
    "gap": "logit gap |cond - null| / |cond|",
    "confidence": "mean probability of the likeliest code",
    "low": "change, low band",
    "middle": "change, middle band",
    "high": "change, high band",
    "milliseconds": "time (ms)",
    "gflop": "operations (GFLOP)",
}

VERDICTS: tuple[str, ...] = ("strict", "relaxed")

SCALE_AXIS = "scale (tokens: height x width)"


def available() -> None:
    """Make sure that there is something to plot with.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("matplotlib", "plot") from None


def write_plots(study: Study, profile: StageProfile, folder: Path) -> list[Path]:
    """Write all plots of a study.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the folder cannot be written.
    """
    available()
    paths = []
    for name, draw in PLOTS.items():
        figure = draw(study, profile)
        path = folder / f"{name}.png"
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DOTS)
        paths.append(path)
    return paths


def similarity(study: Study, profile: StageProfile) -> Figure:
    """What the picture shows and its structure, against the final picture."""
    semantic, structural = study.of("semantic"), study.of("structural")
    verdicts = {name: semantic.pop(name) for name in VERDICTS if name in semantic}
    noise = structural.pop("psnr")
    figure, panels = _figure("Likeness of the picture after each scale to the final one", study, 4 if verdicts else 3)
    _lines(panels[0], semantic)
    _axis(panels[0], study, profile, "what it shows", "agreement with the final picture", profile.semantic.rule)
    _lines(panels[1], structural)
    _axis(panels[1], study, profile, "structure", "similarity to the final picture", profile.structure.rule)
    _lines(panels[2], {"psnr": noise}, last=len(study.schedule) - 1)
    _axis(panels[2], study, profile, "distortion (the last scale is the reference)", "PSNR (dB)")
    if verdicts:
        _lines(panels[3], verdicts)
        _axis(panels[3], study, profile, "verdict on the caption (band: 95% interval)", "share of pictures")
        panels[3].set_ylim(-0.04, 1.04)
    return figure


def guidance(study: Study, profile: StageProfile) -> Figure:
    """What guidance still does, and how sure the model is."""
    figure, (left, right) = _figure("What guidance changes at each scale", study, 2)
    curves = study.of("guidance")
    gap = curves.pop("gap")
    _lines(left, curves)
    _axis(left, study, profile, "codes", "share of codes, probability")
    _lines(right, {"gap": gap})
    _axis(right, study, profile, "distance of the branches", "norm ratio")
    right.set_ylim(bottom=0)
    return figure


def change(study: Study, profile: StageProfile) -> Figure:
    """Which frequencies of the latent still move: the signals that accelerators decide by."""
    figure, (axes,) = _figure("Change of the latent by frequency band", study, 1)
    _lines(axes, study.of("change"))
    _axis(axes, study, profile, "", "amplitude of the change / amplitude of the latent")
    return figure


def spectrum(study: Study, profile: StageProfile) -> Figure:
    """Energy of each octave relative to the final picture."""
    figure, (axes,) = _figure("Spectral energy after each scale", study, 1)
    curves = study.of("spectral")
    names = [f"band {_band(band, len(curves))} of Nyquist" for band in range(len(curves))]
    _lines(axes, dict(zip(names, curves.values(), strict=True)))
    _axis(axes, study, profile, "", "energy / energy of the final picture (log)")
    axes.axhline(1, color="#555555", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(3e-3, 10)
    return figure


def ranks(study: Study, profile: StageProfile) -> Figure:
    """Effective rank of every group's input."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    title = "Rank of the block groups' inputs over their rows"
    figure, panels = _figure(title, study, len(ENERGIES) + 1, study.rank_prompts)
    names = [rank_name(energy) for energy in ENERGIES]
    titles = [f"{energy:.0%} of the energy" for energy in ENERGIES]
    for axes, name, title in zip(panels, [*names, "participation"], [*titles, "participation ratio"], strict=True):
        _groups(axes, [figures[name] for figures in study.groups])
        _axis(axes, study, profile, title, "rank / rows")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    return figure


def cost(study: Study, profile: StageProfile) -> Figure:
    """Time, operations and tokens of each scale."""
    title = f"Cost of each scale ({study.device}, {study.dtype}, batches of {study.batch_size})"
    figure, (left, middle, right) = _figure(title, study, 3)
    for axes, name, panel, unit in (
        (left, "milliseconds", "time, all branches", "milliseconds per picture"),
        (middle, "gflop", "operations, all branches", "GFLOP per picture"),
    ):
        _bars(axes, study.curves[name].mean, _reach(study.curves[name]))
        _axis(axes, study, profile, panel, unit)
    _bars(right, study.tokens)
    _axis(right, study, profile, "tokens", "tokens per picture and branch")
    return figure


PLOTS: Mapping[str, Callable[[Study, StageProfile], Figure]] = {
    "similarity": similarity,
    "guidance": guidance,
    "change": change,
    "spectrum": spectrum,
    "ranks": ranks,
    "cost": cost,
}
"""Every plot by the name of its file."""


def _figure(title: str, study: Study, panels: int, prompts: int = 0) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = 2 if panels == 4 else panels
    width, height = 1.6 + 0.42 * len(study.schedule), 4.6 * panels / columns
    figure = Figure(figsize=(max(7.5, width * columns), height), layout="constrained")
    figure.suptitle(f"{title}\n{study.model}, {prompts or len(study.prompts)} prompts", fontsize=12)
    return figure, list(figure.subplots(panels // columns, columns, squeeze=False).flat)


def _lines(axes: Axes, curves: Mapping[str, Curve], last: int | None = None) -> None:
    """Means with bands: 10% to 90% of the prompts, and for verdicts the 95% interval of the mean."""
    for i, (name, curve) in enumerate(curves.items()):
        low, high = _band_of(curve)
        mean = curve.mean[:last]
        x, colour = range(len(mean)), COLOURS[i % len(COLOURS)]
        axes.fill_between(x, low[:last], high[:last], color=colour, alpha=0.13, linewidth=0)
        style, marker = DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]
        axes.plot(x, mean, color=colour, linestyle=style, marker=marker, markersize=4, label=LABELS.get(name, name))
    axes.legend(fontsize=8, loc="best", framealpha=0.8)


def _band_of(curve: Curve) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not curve.binary:
        return curve.low, curve.high
    margins = [1.96 * std / sqrt(len(curve.values)) for std in curve.std]
    pairs = list(zip(curve.mean, margins, strict=True))
    return tuple(max(0.0, mean - by) for mean, by in pairs), tuple(min(1.0, mean + by) for mean, by in pairs)


def _groups(axes: Axes, curves: list[Curve]) -> None:
    """One line per group of blocks, dark to light with depth; scales where a rank is zero (one token) are left out.

    Of many groups only the first, the middle and the last are named and have a band.
    """
    from matplotlib import colormaps

    for group, curve in enumerate(curves):
        colour = colormaps["viridis"](0.9 * group / max(1, len(curves) - 1))
        x = [k for k, mean in enumerate(curve.mean) if mean > 0]
        mean, low, high = ([row[k] for k in x] for row in (curve.mean, curve.low, curve.high))
        shown = len(curves) <= 8 or group in (0, len(curves) // 2, len(curves) - 1)
        if shown:
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        marker = MARKERS[group % len(MARKERS)]
        axes.plot(x, mean, color=colour, marker=marker, markersize=4, label=f"group {group}" if shown else None)
    axes.legend(fontsize=8, loc="lower left", frameon=False)


def _reach(curve: Curve) -> tuple[list[float], list[float]]:
    """How far the spread of a curve reaches below and above its mean."""
    down = [mean - min(mean, low) for mean, low in zip(curve.mean, curve.low, strict=True)]
    up = [max(mean, high) - mean for mean, high in zip(curve.mean, curve.high, strict=True)]
    return down, up


def _bars(axes: Axes, heights: Sequence[float], spread: Sequence[Sequence[float]] | None = None) -> None:
    """Bars with their share of the sum; ``spread`` is how far each reaches down and up."""
    bars = axes.bar(range(len(heights)), heights, yerr=spread, capsize=3, color=COLOURS[0], width=0.7)
    whole = sum(heights)
    shares = [f"{value / whole:.0%}" if value > 0.005 * whole else "" for value in heights]
    axes.bar_label(bars, shares, fontsize=8, padding=2)
    axes.margins(y=0.1)


def _axis(axes: Axes, study: Study, profile: StageProfile, title: str, unit: str, rule: Rule | None = None) -> None:
    """Titles, scales and shaded stages of one panel, and the level that ends a stage."""
    count = len(study.schedule)
    axes.set_title(title, fontsize=10, pad=18)
    axes.set_xticks(range(count), study.grids, rotation=60, fontsize=8)
    axes.set_xlabel(SCALE_AXIS, fontsize=9)
    axes.set_ylabel(unit, fontsize=9)
    axes.set_xlim(-0.5, count - 0.5)
    edges = (-0.5, profile.semantic.scale + 0.5, profile.structure.scale + 0.5, count - 0.5)
    for stage, shade, (start, end) in zip(STAGES, SHADES, pairwise(edges), strict=True):
        if end > start:
            axes.axvspan(start, end, color=shade, zorder=0, linewidth=0)
            place = axes.get_xaxis_transform()
            axes.text((start + end) / 2, 1.01, stage, transform=place, ha="center", fontsize=8, color="#444444")
    if rule is not None:
        axes.axhline(rule.reach, color="#555555", linewidth=0.8, linestyle=":")
        names = ", ".join(LABELS.get(name, name) for name in rule.curves)
        axes.text(-0.4, rule.reach, f"stage ends: {names} at {rule.reach:.0%}", va="bottom", fontsize=7)
    axes.grid(axis="y", color="#cccccc", linewidth=0.5)
    axes.set_axisbelow(True)


def _band(band: int, bands: int) -> str:
    """``1/8 - 1/4``: an octave as a share of the Nyquist frequency."""
    edges = ["0", *(f"1/{2 ** (bands - 1 - b)}" if b < bands - 1 else "1" for b in range(bands))]
    return f"{edges[band]} - {edges[band + 1]}"
