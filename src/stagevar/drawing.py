"""Requests to batches to events: each request is read once, batches share passes, latents become pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from stagevar.accelerators.base import Accelerator
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Grid
from stagevar.engine.loop.run import Revise
from stagevar.errors import SizeError
from stagevar.request import Request

SAME_RATIO = 0.01
"""Relative difference of aspect ratios that a strict request overlooks."""


def native_size(model: ScaleModel, request: Request) -> Grid:
    """Height and width in pixels of the model's picture that is nearest to what a request asks for.

    A size is compared side by side, in relative terms; of several pictures with the aspect ratio asked for, the one
    whose area is nearest to that of the model's default is taken.

    Raises:
        SizeError: the request is strict, and the model draws no such picture.
    """
    height, width = request.height, request.width
    sizes, default = model.sizes(), model.picture_size(model.schedule())
    if height is not None and width is not None:
        if request.strict:
            return model.picture_size(model.schedule(height, width))
        return min(sizes, key=lambda size: math.hypot(math.log(size[0] / height), math.log(size[1] / width)))
    if request.aspect_ratio is None:
        return default
    ratio = float(request.aspect_ratio)

    def off(size: Grid) -> float:
        return abs(math.log(size[1] / size[0] / ratio))

    def apart(size: Grid) -> float:
        return abs(math.log(size[0] * size[1] / (default[0] * default[1])))

    best = min(sizes, key=lambda size: (round(off(size), 6), apart(size)))
    if request.strict and off(best) > SAME_RATIO:
        raise SizeError(
            f"model {model.name} draws no pictures {ratio:.4g} times as wide as high; the nearest is "
            f"{best[0]}x{best[1]} (height x width)"
        )
    return best


MAX_BATCH = 16


def to_pil(picture: Tensor) -> Image.Image:
    """(3, height, width) in [0, 1] to an RGB image, rounded to 8 bits."""
    pixels = (picture.float() * 255).round().clamp(0, 255).byte()
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))


def _revise(accelerators: Sequence[Accelerator]) -> Revise | None:
    """The loop's question to each image's accelerator, None if none of them decides online."""
    if not any(accelerator.online for accelerator in accelerators):
        return None
    return lambda image, plan, at, signals: accelerators[image].revise(plan, at, signals)
