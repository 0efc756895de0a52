"""What a user wants of a picture: what is kept of it, and what is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, get_args

from stagevar.editing.opened import Picture, open_mask, open_picture
from stagevar.errors import OptionError, quoted

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["crop", "pad", "stretch"]
Sides = tuple[int, int, int, int]
"""Pixels at the left, at the top, at the right and at the bottom."""

AGAIN = 0.5
"""Strength for a picture without mask where none is given."""

LARGEST_SIDE = 2**14
"""Most pixels that are drawn at a side."""

LARGEST = 64
"""Largest factor by which a picture is enlarged."""


class Editing(TypedDict, total=False):
    """Settings of a call that begin with a picture.

    Keys:
        image: the picture, or one per prompt.
        mask: of the picture's size: what is white, or transparent, is drawn; the codes of all else are kept. One, or
            one per picture.
        strength: share of the scales, in [0, 1], that are drawn: at 0 none is, so that the picture is the tokenizer's
            reconstruction; at 1 all are. 1 with a mask and for models that restore, else 0.5.
        soft_edge: pixels of the picture that is drawn by which the mask grows up to the last scale, so that what is
            drawn joins what is kept.
        expand: pixels that are drawn around the picture: one number, or left, top, right and bottom.
        upscale: factor of the sides: the scales whose grids are finer than the picture are drawn.
        fit: how a picture of another ratio than the model's is fitted: its middle (``crop``), with drawn borders
            (``pad``, the default with ``expand``) or distorted (``stretch``).
    """

    image: Picture | Sequence[Picture] | None
    mask: Picture | Sequence[Picture] | None
    strength: float | None
    soft_edge: float
    expand: int | Sequence[int] | None
    upscale: float | None
    fit: Fit | None


@dataclass(frozen=True, slots=True)
class Edit:
    """A picture, and what is kept of it; see ``Editing`` for the meaning of the fields."""

    image: Image
    mask: Image | None = None
    strength: float | None = None
    soft_edge: float = 0.0
    expand: Sides = (0, 0, 0, 0)
    upscale: float | None = None
    fit: Fit = "crop"

    @classmethod
    def read(
        cls,
        image: Picture,
        mask: Picture | None = None,
        strength: float | None = None,
        soft_edge: float = 0.0,
        expand: int | Sequence[int] | None = None,
        upscale: float | None = None,
        fit: Fit | None = None,
    ) -> Self:
        """The settings of a call, checked.

        Raises:
            MissingFileError: there is no such picture.
            SizeError: a picture that is too large.
            OptionError: what is no picture; an empty mask, or one of another size than the picture; a value out of its
                range; settings that contradict.
        """
        if fit is not None and fit not in get_args(Fit):
            raise OptionError(f"fit must be one of {', '.join(get_args(Fit))}, not {quoted(fit)}")
        sides = _sides(expand)
        if upscale is not None and (strength is not None or mask is not None or any(sides)):
            raise OptionError("upscale keeps all of a picture; leave strength, mask and expand out")
        picture, drawn = open_picture(image), None if mask is None else open_mask(mask)
        if drawn is not None:
            _check_mask(picture, drawn)
        return cls(
            picture,
            drawn,
            None if strength is None else _number("strength", strength, 0, 1),
            _number("soft_edge", soft_edge, 0, 1024),
            sides,
            None if upscale is None else _number("upscale", upscale, 1, LARGEST),
            fit or ("pad" if any(sides) else "crop"),
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the picture with what is drawn around it, enlarged."""
        left, top, right, bottom = self.expand
        factor = self.upscale or 1.0
        return (
            max(1, round(factor * (self.image.height + top + bottom))),
            max(1, round(factor * (self.image.width + left + right))),
        )

    def drawn(self, restores: bool) -> float:
        """Share of the scales that are drawn, by a model that restores or not."""
        whole = restores or self.mask is not None or any(self.expand)
        return self.strength if self.strength is not None else 1.0 if whole else AGAIN

    @property
    def settings(self) -> dict[str, Any]:
        """The fields as plain data; of the picture its size."""
        return {
            "image": f"{self.image.width}x{self.image.height}",
            "mask": self.mask is not None,
            "strength": self.strength,
            "soft_edge": self.soft_edge,
            "expand": list(self.expand),
            "upscale": self.upscale,
            "fit": self.fit,
        }


def read_edits(settings: Mapping[str, Any], prompts: int) -> list[Edit | None]:
    """The edit of each prompt, from the settings of ``Editing`` that a call has.

    Raises:
        OptionError: other numbers of pictures and masks than of prompts, or a setting without a picture.
        as ``Edit.read``.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if "image" not in given:
        if given:
            raise OptionError(f"{next(iter(given))} is for pictures; give an image with it")
        return [None] * prompts
    images, masks = (_each(name, given.pop(name, None), prompts) for name in ("image", "mask"))
    read: dict[tuple[int, int], Edit] = {}
    for image, mask in zip(images, masks, strict=True):
        if (id(image), id(mask)) not in read:
            read[id(image), id(mask)] = Edit.read(image, mask, **given)
    return [read[id(image), id(mask)] for image, mask in zip(images, masks, strict=True)]


def _each(name: str, given: Any, prompts: int) -> list[Any]:
    """One picture or mask per prompt."""
    if not isinstance(given, list | tuple):
        return [given] * prompts
    if len(given) != prompts:
        raise OptionError(f"{len(given)} pictures as {name} for {prompts} prompts; give one, or one per prompt")
    return list(given)


def _check_mask(picture: Image, mask: Image) -> None:
    """Raise unless a mask is the picture's, and some of it is drawn."""
    if mask.size != picture.size:
        sizes = f"{mask.width}x{mask.height} pixels and the picture {picture.width}x{picture.height}"
        raise OptionError(f"the mask has {sizes}; give a mask of the picture's size")
    if mask.getbbox() is None:
        raise OptionError(
            "the mask is empty, so that nothing would be drawn; make white what is to be drawn, or transparent in a "
            "mask that has transparency"
        )


def _sides(given: Any) -> Sides:
    """Pixels at the four sides."""
    sides = (0,) * 4 if given is None else tuple(given) if isinstance(given, list | tuple) else (given,) * 4
    try:
        left, top, right, bottom = (-1 if isinstance(each, bool) else index(each) for each in sides)
    except (TypeError, ValueError):
        left = top = right = bottom = -1
    if not 0 <= min(left, top, right, bottom) <= max(left, top, right, bottom) <= LARGEST_SIDE:
        raise OptionError(
            f"expand takes pixels up to {LARGEST_SIDE}: one number, or left, top, right and bottom, not {quoted(given)}"
        )
    return left, top, right, bottom


def _number(name: str, value: Any, low: float, high: float) -> float:
    """A number within its range."""
    try:
        number = float("nan") if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (math.isfinite(number) and low <= number <= high):
        raise OptionError(f"{name} must be a number between {low} and {high}, not {quoted(value)}")
    return number
