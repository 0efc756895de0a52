"""Five ways to spoil a picture: rain, haze, noise, blur and low light.

Each takes pictures (n, 3, h, w) in [0, 1] and a generator of random numbers, and gives pictures of the same shape in
[0, 1]. How strong a fault is differs from picture to picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from stagevar.engine.grids.latent import resize

STREAK = 15
"""Side in pixels of the kernel that draws a streak of rain."""
BLUR = 13
"""Side in pixels of the kernel of a blur."""


def between(low: float, high: float, n: int, generator: Generator) -> Tensor:
    """A number for each of n pictures, (n, 1, 1, 1), evenly between two bounds."""
    return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)


def rain(pictures: Tensor, generator: Generator) -> Tensor:
    """Bright streaks, 5 to 13 pixels long and up to 30 degrees from upright, at 1 to 2.5% of the pixels."""
    n, _, h, w = pictures.shape
    length, slope = between(5, 13, n, generator), between(-0.58, 0.58, n, generator)
    y, x = torch.meshgrid(*[torch.arange(STREAK) - STREAK // 2.0] * 2, indexing="ij")
    across, along = x + slope * y, y * (1 + slope**2).sqrt()
    kernels = (1 - across.abs()).clamp(min=0) * (along.abs() <= length / 2)
    drops = torch.rand(n, 1, h, w, generator=generator) < between(0.01, 0.025, n, generator)
    streaks = F.conv2d(drops.float().transpose(0, 1), kernels, padding=STREAK // 2, groups=n).transpose(0, 1)
    opacity = streaks.clamp(max=1) * between(0.4, 0.7, n, generator)
    return pictures + opacity * (0.9 - pictures)


def haze(pictures: Tensor, generator: Generator) -> Tensor:
    """Air of brightness 0.7 to 0.95 that lets 35 to 65% of the light through, more in some places than in others: the
    model of Koschmieder, as restoration uses it."""
    n, _, *size = pictures.shape
    waves = resize(torch.rand(n, 1, 4, 4, generator=generator), (size[0], size[1]), "bilinear") - 0.5
    through = (between(0.35, 0.65, n, generator) + 0.2 * waves).clamp(0.2, 0.9)
    return pictures * through + between(0.7, 0.95, n, generator) * (1 - through)


def noise(pictures: Tensor, generator: Generator) -> Tensor:
    """Gaussian noise of deviation 0.08 to 0.2 in every channel."""
    deviation = between(0.08, 0.2, len(pictures), generator)
    return (pictures + deviation * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)


def blur(pictures: Tensor, generator: Generator) -> Tensor:
    """A Gaussian of deviation 1.2 to 2.2 pixels, and noise of deviation 0.01."""
    n = len(pictures)
    steps = torch.arange(BLUR) - BLUR // 2.0
    line = (-(steps**2) / (2 * between(1.2, 2.2, n, generator).flatten(1) ** 2)).exp()
    line = (line / line.sum(1, keepdim=True)).repeat_interleave(3, 0)
    x = F.pad(pictures.flatten(0, 1)[None], [BLUR // 2] * 4, mode="replicate")
    x = F.conv2d(F.conv2d(x, line[:, None, :, None], groups=3 * n), line[:, None, None], groups=3 * n)
    x = x[0].unflatten(0, (n, 3))
    return (x + 0.01 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def low_light(pictures: Tensor, generator: Generator) -> Tensor:
    """12 to 35% of the light, with noise: of deviation 0.01, and of variance 0.0005 per unit of brightness, as few
    photons leave it; then 8 bits."""
    dark = pictures * between(0.12, 0.35, len(pictures), generator)
    deviation = (0.01**2 + 0.0005 * dark).sqrt()
    dark = dark + deviation * torch.randn(pictures.shape, generator=generator)
    return (dark * 255).round().clamp(0, 255) / 255


DEGRADATIONS: Mapping[str, Callable[[Tensor, Generator], Tensor]] = {
    "rain": rain,
    "haze": haze,
    "noise": noise,
    "blur": blur,
    "low light": low_light,
}


def degraded(pictures: Tensor, seed: int) -> Tensor:
    """Pictures with a fault each: picture i has the fault i of the list, over and over, beginning with the seed's."""
    generator = torch.Generator().manual_seed(seed)
    out, names = torch.empty_like(pictures), list(DEGRADATIONS)
    for index, name in enumerate(names):
        rows = [i for i in range(len(pictures)) if (i + seed) % len(names) == index]
        if rows:
            out[rows] = DEGRADATIONS[name](pictures[rows].cpu(), generator).to(pictures.device)
    return out
