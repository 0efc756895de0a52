"""Draws scenes as 64x64 pictures whose coarse layout follows from the caption and the background style alone.

The network samples all tokens of a scale independently, so whatever is left to chance at coarse scale comes out
incoherent. Chance enters in two places only: the style, which the mean colour of the picture gives away, and the
texture of each object, which changes brightness and keeps hue and outline.
"""

from __future__ import annotations

import colorsys
import functools
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stagevar.scenes.captions import COLORS, SHAPES, Scene

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

SIZE = 64
"""Side of a picture in pixels."""
HUES = dict(zip(COLORS, (0.0, 56.0, 120.0, 180.0, 230.0, 318.0), strict=True))
"""Hue of each colour in degrees."""
SATURATION, BRIGHTNESS = 0.87, 0.98
"""HSV saturation of objects, and value of their bright parts."""

GREYS = (0.16, 0.24, 0.32)
"""Brightness of a background in the middle."""
TINTS = ((1.0, 1.0, 1.0), (1.1, 1.0, 0.9), (0.9, 1.0, 1.1))
"""Neutral, warm and cool: factors on red, green and blue, saturation at most 0.19."""
STYLES = len(GREYS) * len(TINTS)
"""Number of backgrounds: every grey in every tint."""
GRADIENT = 0.03
"""How much brighter a background is at one end of its height than in the middle."""

LATTICE = 4
"""Centres lie on multiples of this many pixels, which is also the period of the textures."""
RADII = {1: 20.0, 2: 13.5, 3: 12.0, 4: 11.0}
"""Radius in pixels by number of objects."""
SPREAD = 16
"""Distance in pixels of two objects' centres from the middle of the picture."""
TRIANGLES = (
    ((-16, 16), (16, 16), (0, -16)),
    ((-16, -16), (16, -16), (0, 16)),
    ((-16, -16), (-16, 16), (16, 0)),
    ((16, -16), (16, 16), (-16, 0)),
)
GRID = ((-16, -16), (16, -16), (-16, 16), (16, 16))
"""Centres of three objects (one of four triangles, by style) and of four, in pixels from the middle: (x, y)."""

TEXTURES = ("plain", "stripes", "dots", "outline")
TEXTURE_WEIGHTS = (0.4, 0.2, 0.2, 0.2)
"""How often each texture is drawn."""


@dataclass(frozen=True)
class Placed:
    """One object of a picture; `x` and `y` are its centre and `radius` half its width, in pixels, y downwards."""

    shape: str
    color: str
    x: int
    y: int
    radius: float
    texture: str


@dataclass(frozen=True)
class Layout:
    """Everything there is to draw; `style` is below `STYLES`."""

    style: int
    objects: tuple[Placed, ...]


def lay_out(scene: Scene, rng: random.Random) -> Layout:
    """Place the things of a scene; `rng` draws the style and the textures, all else follows."""
    style = rng.randrange(STYLES)
    if scene.category == "counting":
        things = scene.things * scene.count
        textures = rng.choices(TEXTURES, TEXTURE_WEIGHTS) * scene.count
    else:
        things = scene.things
        textures = rng.choices(TEXTURES, TEXTURE_WEIGHTS, k=len(things))
    colors = _colors(scene, style) * (len(things) // len(scene.things))
    centres = _centres(len(things), scene.relation, style)
    radius = RADII[len(things)]
    return Layout(
        style,
        tuple(
            Placed(thing.shape, color, x, y, radius, texture)
            for thing, color, (x, y), texture in zip(things, colors, centres, textures, strict=True)
        ),
    )


def _colors(scene: Scene, style: int) -> list[str]:
    """A colour for each thing; one that the caption leaves open is a function of shape and style."""
    colors: list[str] = []
    for thing in scene.things:
        index = SHAPES.index(thing.shape) + style
        if thing.color is None and COLORS[index % len(COLORS)] in colors:
            index += 1
        colors.append(thing.color or COLORS[index % len(COLORS)])
    return colors


def _centres(number: int, relation: str | None, style: int) -> list[tuple[int, int]]:
    """Centres in pixels: a template by number and relation, moved by the style as far as it fits."""
    grey, tint = divmod(style, len(TINTS))
    dx, dy = (0, -LATTICE, LATTICE)[grey], (0, LATTICE, -LATTICE)[tint]
    middle = SIZE // 2
    if number == 2:
        first = -SPREAD if relation in (None, "left", "above") else SPREAD
        if relation in ("above", "below"):
            return [(middle + dx, middle + along) for along in (first, -first)]
        return [(middle + along, middle + dy) for along in (first, -first)]
    template = {1: ((0, 0),), 3: TRIANGLES[style % len(TRIANGLES)], 4: GRID}[number]
    limit = middle - _half_stamp(RADII[number])
    return [(middle + max(-limit, min(limit, x + dx)), middle + max(-limit, min(limit, y + dy))) for x, y in template]


def draw(layout: Layout) -> Picture:
    """Draw a layout: uint8 RGB, (64, 64, 3)."""
    return compose(layout.objects, background(layout.style))


def compose(objects: Iterable[Placed], background: Floats) -> Picture:
    """Draw objects over a background, (64, 64, 3) in [0, 1]: uint8 RGB."""
    picture = background.copy()
    for placed in objects:
        coverage, color = _stamp(placed.shape, placed.color, placed.radius, placed.texture)
        half = coverage.shape[0] // 2
        window = picture[placed.y - half : placed.y + half, placed.x - half : placed.x + half]
        window += coverage * (color - window)
    return np.rint(picture * 255).astype(np.uint8)


def render(scene: Scene, rng: random.Random) -> Picture:
    """A picture of a scene: uint8 RGB, (64, 64, 3), the same for the same scene and state of `rng`."""
    return draw(lay_out(scene, rng))


def render_batch(scenes: Iterable[Scene], rng: random.Random) -> Picture:
    """Pictures of several scenes: uint8 RGB, (n, 64, 64, 3)."""
    return np.stack([render(scene, rng) for scene in scenes])


@functools.cache
def background(style: int) -> Floats:
    """The background of a style: RGB in [0, 1], (64, 64, 3)."""
    grey, tint = divmod(style, len(TINTS))
    downwards = 1 if style % 2 else -1
    ramp = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    values = GREYS[grey] + downwards * GRADIENT * ramp
    rows = values[:, None, None] * np.array(TINTS[tint])
    return np.broadcast_to(rows, (SIZE, SIZE, 3)).astype(np.float32)


def _half_stamp(radius: float) -> int:
    """Half the side of the square that holds an object and 2 pixels around it, in pixels, a multiple of `LATTICE`."""
    return math.ceil((radius + 2) / LATTICE) * LATTICE


@functools.cache
def _stamp(shape: str, color: str, radius: float, texture: str) -> tuple[Floats, Floats]:
    """How far an object covers each pixel, (side, side, 1), and its colour there, (side, side, 3)."""
    half = _half_stamp(radius)
    steps = np.arange(-half, half) + 0.5
    x, y = np.meshgrid(steps, steps)
    distance = shape_distance(shape, x / radius, y / radius) * radius
    coverage = np.clip(0.5 - distance, 0, 1)
    hue = np.array(colorsys.hsv_to_rgb(HUES[color] / 360, SATURATION, 1.0))
    rgb = _brightness(texture, distance)[..., None] * hue
    return coverage[..., None].astype(np.float32), rgb.astype(np.float32)


def _brightness(texture: str, distance: Doubles) -> Doubles:
    """Brightness 0..1 of an object by pixel, from its signed distance in pixels."""
    if texture == "outline":
        return np.where(distance > -2.2, 0.66, BRIGHTNESS)
    rows, columns = np.indices(distance.shape)
    bright: npt.NDArray[np.bool_] = np.ones(distance.shape, dtype=np.bool_)
    if texture in ("stripes", "dots"):
        bright &= rows % LATTICE < LATTICE // 2
    if texture == "dots":
        bright &= columns % LATTICE < LATTICE // 2
    return np.where(bright, BRIGHTNESS, 0.74)


def shape_distance(shape: str, x: Doubles, y: Doubles) -> Doubles:
    """Signed distance to the edge of a shape of radius 1 around 0, negative inside; y points down."""
    if shape == "circle":
        return np.hypot(x, y) - 0.96
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.74) - 0.24
    return _polygon_distance(_CORNERS[shape], x, y)


def _star_corners() -> list[tuple[float, float]]:
    angles = [index * math.pi / 5 for index in range(10)]
    lengths = (1.05, 0.45) * 5
    return [
        (length * math.sin(angle), 0.1 - length * math.cos(angle))
        for angle, length in zip(angles, lengths, strict=True)
    ]


def _cross_corners(arm: float = 0.33) -> list[tuple[float, float]]:
    quarter = [(-arm, -arm), (-arm, -1.0), (arm, -1.0)]
    turns = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    return [(x * cos - y * sin, x * sin + y * cos) for cos, sin in turns for x, y in quarter]


_CORNERS = {
    "square": [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)],
    "triangle": [(0.0, -0.94), (0.99, 0.8), (-0.99, 0.8)],
    "star": _star_corners(),
    "cross": _cross_corners(),
}


def _polygon_distance(corners: list[tuple[float, float]], x: Doubles, y: Doubles) -> Doubles:
    """Signed distance to a simple polygon: the nearest edge, its sign by counting crossings."""
    squared: Doubles = np.full(x.shape, np.inf)
    inside: npt.NDArray[np.bool_] = np.zeros(x.shape, dtype=np.bool_)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ey:
            inside ^= ((ay <= y) != (by <= y)) & (x < ax + (y - ay) * ex / ey)
    return np.where(inside, -1.0, 1.0) * np.sqrt(squared)
