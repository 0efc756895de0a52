"""Reads the objects of a picture and judges it against a scene by the rules of GenEval, without a learned network.

Pixels that are saturated and bright enough form objects, hue names their colour, and their outline is compared with
the shapes the renderer draws. The rules are those of `evaluation/evaluate_images.py` of GenEval (Ghosh et al. 2023).
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stagevar.scenes.captions import COLORS, SHAPES, Scene, Thing
from stagevar.scenes.render import HUES, SIZE, Picture, shape_distance

Mask = npt.NDArray[np.bool_]

MIN_SATURATION, MIN_VALUE = 0.45, 0.33
"""HSV saturation and value above which a pixel has a colour and belongs to an object."""
MIN_AREA = 24
"""Pixels of the smallest object in a picture of 64x64; grows with the area of the picture."""
PURE_SHARE = 0.72
"""An object with a smaller share of its commonest colour is several objects that touch."""
MIN_OVERLAP = 0.6
"""Intersection over union with a template below which an object has no shape."""
MIN_MARGIN = 0.1
"""GenEval's `POSITION_THRESHOLD`: the part of two objects' sizes their distance must exceed."""
GRID = 32
"""Side of the grid on which outlines are compared."""
REACH = 2.2
"""How far the grid reaches from the centroid, in root mean squared distances of an object's pixels from it."""


@dataclass(frozen=True)
class Found:
    """One object of a picture.

    `shape` is None if it resembles none; `score` is its overlap with the nearest shape, 0..1. `x`, `y` are the
    centre of its bounding box and `width`, `height` its sides, in pixels; `area` is in pixels as well.
    """

    shape: str | None
    color: str
    x: float
    y: float
    width: float
    height: float
    area: int
    score: float


@dataclass(frozen=True)
class Verdict:
    """`strict`: the picture shows the scene. `relaxed`: it does if any shape passes for any other."""

    strict: bool
    relaxed: bool
    found: list[Found]


def judge(scene: Scene, picture: Picture) -> Verdict:
    """Whether a picture, uint8 (height, width, 3), shows a scene.

    Counting asks for exactly the counted objects and no other; the other categories overlook additional objects,
    as GenEval does. `relaxed` overlooks shapes instead and asks for the right number of objects in every category;
    what is strictly right is right there too.
    """
    found = read(picture)
    strict = _shows(scene, found, any_shape=False)
    number = scene.count * len(scene.things)
    return Verdict(strict, strict or (len(found) == number and _shows(scene, found, any_shape=True)), found)


def _shows(scene: Scene, found: list[Found], any_shape: bool) -> bool:
    def fits(thing: Thing, candidate: Found) -> bool:
        return (any_shape or candidate.shape == thing.shape) and thing.color in (None, candidate.color)

    if scene.category == "counting":
        return len(found) == scene.count and all(fits(scene.things[0], candidate) for candidate in found)
    if len(scene.things) == 1:
        return any(fits(scene.things[0], candidate) for candidate in found)
    first, second = scene.things
    return any(
        fits(first, one) and fits(second, other) and (scene.relation is None or scene.relation in relations(one, other))
        for one, other in itertools.permutations(found, 2)
    )


class Box(Protocol):
    """An object with a bounding box: its centre and its sides, y downwards."""

    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...
    @property
    def width(self) -> float: ...
    @property
    def height(self) -> float: ...


def relations(one: Box, other: Box) -> set[str]:
    """Where `one` stands seen from `other`: `relative_position` of GenEval."""
    dx, dy = one.x - other.x, one.y - other.y
    dx = math.copysign(max(abs(dx) - MIN_MARGIN * (one.width + other.width), 0), dx)
    dy = math.copysign(max(abs(dy) - MIN_MARGIN * (one.height + other.height), 0), dy)
    length = math.hypot(dx, dy)
    if not length:
        return set()
    directions = {"left": -dx, "right": dx, "above": -dy, "below": dy}
    return {relation for relation, part in directions.items() if part / length > 0.5}


def read(picture: Picture) -> list[Found]:
    """The objects of a picture, uint8 (height, width, 3), largest first."""
    hues, coloured = _hues(picture)
    min_area = MIN_AREA * picture.shape[0] * picture.shape[1] / SIZE**2
    objects: list[Found] = []
    for mask in components(coloured):
        if mask.sum() < min_area:
            continue
        shares = np.bincount(hues[mask], minlength=len(COLORS)) / mask.sum()
        if shares.max() >= PURE_SHARE:
            objects.append(_describe(mask, int(shares.argmax())))
            continue
        for color in range(len(COLORS)):
            parts = components(mask & (hues == color))
            objects.extend(_describe(part, color) for part in parts if part.sum() >= min_area)
    return sorted(objects, key=lambda candidate: -candidate.area)


def _hues(picture: Picture) -> tuple[npt.NDArray[np.intp], Mask]:
    """Index of the nearest colour by pixel and which pixels have a colour at all, (height, width) each."""
    rgb = picture.astype(np.float32) / 255
    red, green, blue = np.moveaxis(rgb, -1, 0)
    value = rgb.max(-1)
    chroma = value - rgb.min(-1)
    coloured: Mask = (value > MIN_VALUE) & (chroma > MIN_SATURATION * value)
    angle = np.degrees(np.arctan2(math.sqrt(3) * (green - blue), 2 * red - green - blue))
    centres = np.array([HUES[color] for color in COLORS], dtype=np.float32)
    away = np.abs((angle[..., None] - centres + 180) % 360 - 180)
    return away.argmin(-1), coloured


def components(mask: Mask) -> list[Mask]:
    """The connected parts of a mask (4 neighbours), found by joining the horizontal runs that touch."""
    height, width = mask.shape
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    runs = list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))
    above = 0
    for run, (row, start, stop) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] <= start):
            above += 1
        candidate = above
        while runs[candidate][0] == row - 1 and runs[candidate][1] < stop:
            parents[root(run)] = root(candidate)
            candidate += 1
    parts: dict[int, Mask] = {}
    for run, (row, start, stop) in enumerate(runs):
        part = parts.setdefault(root(run), np.zeros((height, width), dtype=np.bool_))
        part[row, start:stop] = True
    return list(parts.values())


def _describe(mask: Mask, color: int) -> Found:
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    outline = _normalised(mask)
    templates = _templates()
    both = (templates & outline).sum((1, 2))
    overlaps = both / (templates | outline).sum((1, 2))
    best = int(overlaps.argmax())
    return Found(
        shape=SHAPES[best] if overlaps[best] >= MIN_OVERLAP else None,
        color=COLORS[color],
        x=float(left + right) / 2,
        y=float(top + bottom) / 2,
        width=float(right - left),
        height=float(bottom - top),
        area=len(rows),
        score=float(overlaps[best]),
    )


def _normalised(mask: Mask) -> Mask:
    """A mask resampled to `GRID` x `GRID` about its centroid, in units of the spread of its pixels.

    Moments move less than a bounding box when a few pixels stick out.
    """
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    y, x = rows.mean(), columns.mean()
    spread = math.sqrt(((rows - y) ** 2 + (columns - x) ** 2).mean() + 1 / 6)
    steps = ((np.arange(GRID) + 0.5) / GRID * 2 - 1) * REACH * spread
    at_rows, at_columns = np.rint(y + steps).astype(int), np.rint(x + steps).astype(int)
    in_rows, in_columns = (at_rows >= 0) & (at_rows < height), (at_columns >= 0) & (at_columns < width)
    resampled: Mask = mask[np.ix_(at_rows * in_rows, at_columns * in_columns)] & np.outer(in_rows, in_columns)
    return resampled


@functools.cache
def _templates() -> Mask:
    """The normalised masks of all shapes, in the order of `SHAPES`: (shapes, grid, grid)."""
    steps = (np.arange(256) + 0.5) / 128 - 1
    x, y = np.meshgrid(steps * 1.1, steps * 1.1)
    return np.stack([_normalised(shape_distance(shape, x, y) < 0) for shape in SHAPES])
