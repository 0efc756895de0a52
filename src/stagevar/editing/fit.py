"""A picture brought to the size that the model draws, with a map of what is to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from stagevar.editing.edit import Edit, Sides
from stagevar.engine.grids.grid import Grid

Pixels: TypeAlias = npt.NDArray[np.uint8]

SAME = 0.01
"""Relative difference of ratios that is overlooked: the picture is distorted by so little."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture of the model's size.

    Attributes:
        picture: (3, height, width) in [0, 1].
        drawn: (height, width), how much of a pixel is to be drawn, in [0, 1]; None without mask and borders, where all
            may be.
        detail: sides of the picture, in pixels, over those of the fitted one; less than 1 if it has been enlarged.
        said: what a user is told.
    """

    picture: Tensor
    drawn: Tensor | None
    detail: float
    said: str


def fitted(edit: Edit, size: Grid) -> Fitted:
    """The picture of an edit as one of ``size``, height and width in pixels."""
    image, sides = edit.image, edit.expand
    wanted = (size[1] / size[0]) / (_expanded(image, sides)[0] / _expanded(image, sides)[1])
    alike = abs(wanted - 1) <= SAME
    if edit.fit == "pad" and not alike:
        sides = _padded(image, sides, wanted)
    how = "" if alike or edit.fit == "stretch" else {"crop": "cropped", "pad": "padded"}[edit.fit]
    crop, whole = how == "cropped", _expanded(image, sides)
    detail = (min if crop else max)(whole[0] / size[1], whole[1] / size[0])
    picture, drawn = _shown(edit, sides, size, crop)
    said = f"{image.width}x{image.height} {how or 'resized'} to {size[1]}x{size[0]}"
    same = (image.height, image.width) == tuple(size)
    return Fitted(
        _tensor(picture).permute(2, 0, 1), None if drawn is None else _tensor(drawn), detail, "" if same else said
    )


def _expanded(image: Image.Image, sides: Sides) -> tuple[int, int]:
    """Width and height with what is drawn around an image."""
    left, top, right, bottom = sides
    return image.width + left + right, image.height + top + bottom


def _padded(image: Image.Image, sides: Sides, wanted: float) -> Sides:
    """Sides that widen an image to ``wanted`` times its ratio."""
    left, top, right, bottom = sides
    width, height = _expanded(image, sides)
    wider, higher = max(0, round(width * (wanted - 1))), max(0, round(height * (1 / wanted - 1)))
    return left + wider // 2, top + higher // 2, right + wider - wider // 2, bottom + higher - higher // 2


def _shown(edit: Edit, sides: Sides, size: Grid, crop: bool) -> tuple[Pixels, Pixels | None]:
    """The image amid what is drawn around it, where its outermost pixels go on, and the mask: all around, and the
    image's own; None without both. Only what is shown is resized, and the frame is made at the size that is drawn."""
    whole, left, top = _expanded(edit.image, sides), sides[0], sides[1]
    shown: tuple[float, float] = whole
    if crop:
        ratio = size[1] / size[0]
        shown = min(whole[0], whole[1] * ratio), min(whole[1], whole[0] / ratio)
    across = _span(edit.image.width, left - (whole[0] - shown[0]) / 2, shown[0], size[1])
    down = _span(edit.image.height, top - (whole[1] - shown[1]) / 2, shown[1], size[0])
    box = across.first, down.first, across.last, down.last
    inner = across.end - across.begin, down.end - down.begin
    around = (down.begin, size[0] - down.end), (across.begin, size[1] - across.end)
    picture = np.asarray(edit.image.resize(inner, Image.Resampling.LANCZOS, box))
    picture = np.pad(picture, (*around, (0, 0)), mode="edge")
    if edit.mask is None and not any(sides):
        return picture, None
    mask = np.zeros(inner[::-1], np.uint8)
    if edit.mask is not None:
        mask = np.asarray(edit.mask.resize(inner, Image.Resampling.BOX, box))
    return picture, np.pad(mask, around, constant_values=255)


class _Span(NamedTuple):
    """Along one axis: from where to where an image is shown, in its own pixels, and where in the fitted picture."""

    first: float
    last: float
    begin: int
    end: int


def _span(length: int, start: float, shown: float, pixels: int) -> _Span:
    """Where an image lies that begins ``start`` of its pixels behind the edge of what is shown as ``pixels``; one that
    is too small or lies outside has a pixel nevertheless."""
    first, last = max(-start, 0.0), min(shown - start, float(length))
    if first >= last:
        first = min(first, length - 1.0)
        last = first + 1
    begin = min(max(round((first + start) * pixels / shown), 0), pixels - 1)
    return _Span(first, last, begin, min(max(round((last + start) * pixels / shown), begin + 1), pixels))


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255)
