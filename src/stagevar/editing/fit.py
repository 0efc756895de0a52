"""A picture brought to the size that the model draws, with a map of what is to be drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stagevar.editing.edit import Edit, Sides
from stagevar.engine.grids.grid import Grid

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
    image, mask, sides = edit.image, edit.mask, edit.expand
    wanted = (size[1] / size[0]) / (_expanded(image, sides)[0] / _expanded(image, sides)[1])
    alike = abs(wanted - 1) <= SAME
    if edit.fit == "pad" and not alike:
        sides = _padded(image, sides, wanted)
    if any(sides):
        image, mask = _framed(image, mask, sides)
    how = "" if alike or edit.fit == "stretch" else {"crop": "cropped", "pad": "padded"}[edit.fit]
    crop = how == "cropped"
    detail = (min if crop else max)(image.width / size[1], image.height / size[0])
    picture = _resized(image, size, crop, Image.Resampling.LANCZOS)
    drawn = None if mask is None else _resized(mask, size, crop, Image.Resampling.BOX)
    said = f"{edit.image.width}x{edit.image.height} {how or 'resized'} to {size[1]}x{size[0]}"
    same = (edit.image.height, edit.image.width) == tuple(size)
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


def _framed(image: Image.Image, mask: Image.Image | None, sides: Sides) -> tuple[Image.Image, Image.Image]:
    """An image that its outermost pixels go on around, and the mask of what is drawn: all of that, and the mask's."""
    left, top, right, bottom = sides
    around = (top, bottom), (left, right)
    inner = np.zeros((image.height, image.width), np.uint8) if mask is None else np.asarray(mask)
    framed = np.pad(np.asarray(image), (*around, (0, 0)), mode="edge")
    return Image.fromarray(framed), Image.fromarray(np.pad(inner, around, constant_values=255))


def _resized(image: Image.Image, size: Grid, crop: bool, how: Image.Resampling) -> Image.Image:
    target = size[1], size[0]
    return ImageOps.fit(image, target, how) if crop else image.resize(target, how)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255)
