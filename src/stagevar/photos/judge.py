"""Reads the objects of a picture with the reader, and judges it against a scene by the rules of GenEval."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stagevar.photos.captions import OBJECTS, PLACES, Scene
from stagevar.photos.reader import CELL, NOTHING, Reader
from stagevar.scenes.oracle import components, relations

MIN_AREA = 4
"""Cells of the smallest object."""
PURE_SHARE = 0.6
"""An object with a smaller share of its commonest class is none that has a name."""


@dataclass(frozen=True)
class Found:
    """One object of a picture.

    `name` is None if the reader knows none. `x`, `y` are the centre of its bounding box and `width`, `height` its
    sides, in pixels; `area` is in cells.
    """

    name: str | None
    x: float
    y: float
    width: float
    height: float
    area: int


@dataclass(frozen=True)
class Verdict:
    """`strict`: the picture shows the scene. `relaxed`: it does if any object passes for any other, anywhere."""

    strict: bool
    relaxed: bool
    found: list[Found]
    place: str


@torch.inference_mode()
def read(reader: Reader, pictures: Tensor) -> list[tuple[list[Found], str]]:
    """The objects, largest first, and the place of each of the pictures (n, 3, h, w) in [0, 1]."""
    device = next(reader.parameters()).device
    cells, places = reader(pictures.to(device, torch.float32))
    classes = cells.argmax(1).cpu().numpy()
    names = [tuple(PLACES)[index] for index in places.argmax(1).tolist()]
    return [(_objects(each), name) for each, name in zip(classes, names, strict=True)]


def _objects(classes: npt.NDArray[np.int64]) -> list[Found]:
    """The connected cells that show something, each named by what most of them show."""
    masks = [mask for mask in components(classes != NOTHING) if mask.sum() >= MIN_AREA]
    return sorted((_describe(mask, classes) for mask in masks), key=lambda found: -found.area)


def _describe(mask: npt.NDArray[np.bool_], classes: npt.NDArray[np.int64]) -> Found:
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    votes = np.bincount(classes[mask])
    best = int(votes.argmax())
    named = votes[best] >= PURE_SHARE * len(rows) and best <= len(OBJECTS)
    return Found(
        name=OBJECTS[best - 1] if named else None,
        x=float(left + right) / 2 * CELL,
        y=float(top + bottom) / 2 * CELL,
        width=float(right - left) * CELL,
        height=float(bottom - top) * CELL,
        area=len(rows),
    )


def judge(scene: Scene, found: list[Found], place: str) -> Verdict:
    """Whether a picture with these objects at this place shows a scene.

    Counting asks for exactly the counted objects and no other; the other categories overlook additional objects, as
    GenEval does. `relaxed` asks for the right number of objects, in the right relation, in every category; what is
    strictly right is right there too.
    """
    strict = scene.place in (None, place) and _shows(scene, found, any_object=False)
    number = scene.count * len(scene.things)
    return Verdict(strict, strict or (len(found) == number and _shows(scene, found, any_object=True)), found, place)


def _shows(scene: Scene, found: Sequence[Found], any_object: bool) -> bool:
    def fits(thing: str, candidate: Found) -> bool:
        return any_object or candidate.name == thing

    if scene.category == "counting":
        return len(found) == scene.count and all(fits(scene.things[0], each) for each in found)
    if len(scene.things) == 1:
        return any(fits(scene.things[0], each) for each in found)
    first, second = scene.things
    return any(
        fits(first, one) and fits(second, other) and (scene.relation is None or scene.relation in relations(one, other))
        for one, other in itertools.permutations(found, 2)
    )
