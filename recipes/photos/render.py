"""Composes 64x64 pictures of scenes out of photographs.

As in the world of shapes, the coarse layout follows from the caption and one number, the view. The view is drawn at
random, and the mean brightness of the picture gives it away: all tokens of a scale are drawn independently, so whatever
else is left to chance at coarse scale comes out incoherent.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from photos.material import SIDES, SIZE, VIEWS, make

from stagevar.photos.captions import Scene

Picture = npt.NDArray[np.uint8]

SPREAD = 16
"""Distance in pixels of several objects' centres from the middle of the picture."""
SHIFTS = ((0, 0), (4, 2), (-4, 4), (2, -4))
"""How far each view moves what stands alone: (x, y) in pixels; two objects move across the line that joins them."""
TRIANGLES = (((-1, 1), (1, 1), (0, -1)), ((-1, -1), (1, -1), (0, 1)))
GRID = ((-1, -1), (1, -1), (-1, 1), (1, 1))
"""Centres of three objects (by view) and of four, in units of SPREAD: (x, y)."""

HOMES = {
    "grass": ("duck", "rabbit", "dog", "pig", "basketball"),
    "leaves": ("mushroom", "squirrel", "pumpkin", "fox", "marigold"),
    "moss": ("frog", "strawberry", "onion", "rose"),
    "wood": ("mug", "teapot", "toolbox", "pear", "grape"),
    "petals": ("bee", "pomegranate", "orange"),
    "pier": ("penguin", "tricycle", "lemon"),
    "shore": ("fish", "mailbox", "car"),
    "dune": ("camel", "lion", "banana"),
    "hill": ("cow", "hen", "donkey"),
    "forest": ("bear", "owl", "tiger"),
    "meadow": ("zebra", "daffodil", "teddy"),
    "stream": ("flamingo", "broccoli"),
    "mountains": ("kangaroo", "guitar"),
    "sky": ("balloon", "parrot"),
    "water": ("seahorse", "apple"),
    "storm": ("bus", "drum"),
    "fog": ("elephant", "camera"),
    "dusk": ("boat", "corn"),
    "sunset": ("giraffe", "pineapple", "koala"),
    "night": ("moon", "tomato", "pepper"),
}
"""Where the first object of a caption stands if the caption leaves it open."""
_HOME = {thing: place for place, things in HOMES.items() for thing in things}


@dataclass(frozen=True)
class Placed:
    """One object of a picture: its name, its centre and its longest side in pixels, y downwards."""

    thing: str
    x: int
    y: int
    side: int


@dataclass(frozen=True)
class Layout:
    """Everything there is to draw; `view` is below `VIEWS`."""

    place: str
    view: int
    objects: tuple[Placed, ...]


def lay_out(scene: Scene, rng: random.Random) -> Layout:
    """Place the things of a scene; `rng` draws the view, all else follows."""
    view = rng.randrange(VIEWS)
    things = scene.things * scene.count
    side = SIDES[len(things) > 1]
    centres = _centres(len(things), scene.relation, view)
    objects = tuple(Placed(thing, x, y, side) for thing, (x, y) in zip(things, centres, strict=True))
    return Layout(scene.place or _HOME[scene.things[0]], view, objects)


def _centres(number: int, relation: str | None, view: int) -> list[tuple[int, int]]:
    """Centres in pixels: a template by number and relation, moved by the view where there is room."""
    middle, (dx, dy) = SIZE // 2, SHIFTS[view]
    if number == 1:
        return [(middle + dx, middle + dy)]
    if number == 2:
        first = -SPREAD if relation in (None, "left", "above") else SPREAD
        if relation in ("above", "below"):
            return [(middle + 2 * dx, middle + along) for along in (first, -first)]
        return [(middle + along, middle + 2 * dy) for along in (first, -first)]
    template = TRIANGLES[view % len(TRIANGLES)] if number == 3 else GRID
    return [(middle + SPREAD * x, middle + SPREAD * y) for x, y in template]


class Renderer:
    """Draws scenes from the small pictures in a folder, which are made on first use."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "places.npz").exists():
            make(folder)
        with np.load(folder / "places.npz") as places:
            self._places = dict(places)
        with np.load(folder / "cutouts.npz") as cutouts:
            self._cutouts = {name: _premultiplied(cutout) for name, cutout in cutouts.items()}

    def draw(self, layout: Layout) -> Picture:
        """The picture of a layout: uint8 RGB, (64, 64, 3)."""
        picture = self._places[layout.place][layout.view].copy()
        for placed in layout.objects:
            colour, clear = self._cutouts[f"{placed.thing} {placed.side}"]
            window = picture[_window(placed, clear.shape)]
            window[:] = colour + window * clear
        return picture

    def render_batch(self, scenes: Iterable[Scene], rng: random.Random) -> Picture:
        """Pictures of several scenes, (n, 64, 64, 3), the same for the same scenes and state of `rng`."""
        return np.stack([self.draw(lay_out(scene, rng)) for scene in scenes])

    def opaque(self, placed: Placed) -> npt.NDArray[np.bool_]:
        """Where an object hides the place: (64, 64)."""
        clear = self._cutouts[f"{placed.thing} {placed.side}"][1]
        mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
        mask[_window(placed, clear.shape)] = clear[..., 0] < 0.5
        return mask


def _premultiplied(cutout: Picture) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Colour times opacity plus a half for rounding, (h, w, 3), and transparency, (h, w, 1)."""
    opacity = cutout[..., 3:].astype(np.float32) / 255
    return (cutout[..., :3] * opacity + 0.5).astype(np.float32), (1 - opacity).astype(np.float32)


def _window(placed: Placed, shape: tuple[int, ...]) -> tuple[slice, slice]:
    top, left = placed.y - shape[0] // 2, placed.x - shape[1] // 2
    return slice(top, top + shape[0]), slice(left, left + shape[1])
