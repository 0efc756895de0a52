"""Pictures about pictures: the difference of two, where rows ran, and their form within the page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

STRONGEST = 32
"""Difference of colours, of 255, that is shown as the strongest."""

NONE, SOME, STRONG = (13, 13, 20), (190, 55, 85), (255, 230, 110)
"""Colours of no difference, half the strongest, and the strongest."""

SHADE = 0.22
"""Brightness that is left of a place where no row ran."""


def difference(image: Image.Image, other: Image.Image) -> Image.Image:
    """Mean difference of the colours at every pixel, from dark (none) to bright yellow."""
    distance = np.abs(np.asarray(image, dtype=float) - np.asarray(other, dtype=float)).mean(2)
    strength = distance.clip(max=STRONGEST) / STRONGEST
    channels = [np.interp(strength, (0, 0.5, 1), ends) for ends in zip(NONE, SOME, STRONG, strict=True)]
    return Image.fromarray(np.stack(channels, 2).round().astype(np.uint8))


def shaded(image: Image.Image, share_hw: Tensor) -> Image.Image:
    """A picture that is grey and dark where few rows ran: share 1 leaves it as it is, share 0 leaves ``SHADE``."""
    size = image.height, image.width
    share = F.interpolate(share_hw[None, None], size, mode="nearest")[0, 0, :, :, None].numpy()
    colours, grey = np.asarray(image, dtype=float), np.asarray(image.convert("L"), dtype=float)[:, :, None]
    return Image.fromarray((share * colours + (1 - share) * SHADE * grey).round().astype(np.uint8))


def mean_share(shares: Sequence[Tensor]) -> Tensor:
    """The share of all tokens' work that was done at each place of the final grid (h, w): a mean over scales, weighted
    by their tokens."""
    final = tuple(shares[-1].shape)
    tokens = sum(share.numel() for share in shares)
    spread = (F.interpolate(share[None, None], final, mode="nearest")[0, 0] * share.numel() for share in shares)
    return sum(spread, shares[-1].new_zeros(final)) / tokens


def data_url(image: Image.Image, side: int) -> str:
    """A picture as text that a page can hold; one whose longest side is above ``side`` is reduced to it."""
    reduced = image.copy()
    reduced.thumbnail((side, side), Image.Resampling.LANCZOS)
    reduced.save(buffer := BytesIO(), format="png")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
