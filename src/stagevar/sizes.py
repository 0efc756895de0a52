"""From the picture size that a user wants to one that the model draws."""

from __future__ import annotations

import math

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Grid
from stagevar.errors import SizeError
from stagevar.request import Request

SAME_RATIO = 0.01
"""Relative difference of aspect ratios that a strict request overlooks."""

SLACK = 0.025
"""Relative difference of aspect ratios within which the area decides."""


def native_size(model: ScaleModel, request: Request) -> Grid:
    """Height and width in pixels of the picture that the model draws for a request.

    The aspect ratio decides first, then the area: the one asked for, or else that of the model's default size. The
    ratio is that of the picture to begin with where none is asked for, and so is the area if it is to be enlarged.

    Raises:
        SizeError: the request is strict, and the model draws no such picture.
    """
    height, width, default = request.height, request.width, model.picture_size(model.schedule())
    if request.edit is not None and height is None and request.aspect_ratio is None:
        high, wide = request.edit.size
        enlarged = request.edit.upscale is not None
        return nearest_size(model.sizes(), wide / high, high * wide if enlarged else default[0] * default[1])
    if height is not None and width is not None:
        if request.strict and (height, width) not in model.sizes():
            near = sorted(
                model.sizes(), key=lambda size: abs(math.log(size[0] / height)) + abs(math.log(size[1] / width))
            )
            raise SizeError(
                f"model {model.name} draws no {width}x{height} pictures (width x height); the nearest are "
                f"{', '.join(f'{w}x{h}' for h, w in near[:3])}"
            )
        return nearest_size(model.sizes(), width / height, height * width)
    if request.aspect_ratio is None:
        return default
    ratio = float(request.aspect_ratio)
    best = nearest_size(model.sizes(), ratio, default[0] * default[1])
    if request.strict and _off(best, ratio) > SAME_RATIO:
        raise SizeError(
            f"model {model.name} draws no pictures {ratio:.4g} times as wide as high; the nearest is "
            f"{best[1]}x{best[0]} (width x height)"
        )
    return best


def another_size(request: Request, drawn: Grid) -> str:
    """What a user is told whose picture has another size than was asked for, "" if it has not.

    Args:
        drawn: height and width in pixels of the picture.
    """
    height, width = request.height, request.width
    if height is not None and width is not None:
        alike, asked = (height, width) == drawn, f"{width}x{height}"
    elif request.aspect_ratio is not None:
        ratio = float(request.aspect_ratio)
        alike, asked = _off(drawn, ratio) <= SAME_RATIO, f"{ratio:.4g}:1"
    else:
        return ""
    return "" if alike else f"drawn at {drawn[1]}x{drawn[0]}, the nearest size to {asked}; --strict refuses"


def nearest_size(sizes: list[Grid], ratio: float, area: float) -> Grid:
    """Of the sizes (height, width) whose width over height is nearest to ``ratio``, the one of nearest area."""
    least = min(_off(size, ratio) for size in sizes)
    alike = [size for size in sizes if _off(size, ratio) <= least + SLACK]
    return min(alike, key=lambda size: (abs(math.log(size[0] * size[1] / area)), _off(size, ratio)))


def _off(size: Grid, ratio: float) -> float:
    return abs(math.log(size[1] / size[0] / ratio))
