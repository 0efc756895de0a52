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

    The aspect ratio decides first, then the area: the one asked for, or else that of the model's default size.

    Raises:
        SizeError: the request is strict, and the model draws no such picture.
    """
    height, width, default = request.height, request.width, model.picture_size(model.schedule())
    if height is not None and width is not None:
        if request.strict:
            return model.picture_size(model.schedule(height, width))
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


def nearest_size(sizes: list[Grid], ratio: float, area: float) -> Grid:
    """Of the sizes (height, width) whose width over height is nearest to ``ratio``, the one of nearest area."""
    least = min(_off(size, ratio) for size in sizes)
    alike = [size for size in sizes if _off(size, ratio) <= least + SLACK]
    return min(alike, key=lambda size: (abs(math.log(size[0] * size[1] / area)), _off(size, ratio)))


def _off(size: Grid, ratio: float) -> float:
    return abs(math.log(size[1] / size[0] / ratio))
