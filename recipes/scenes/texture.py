"""The world of shapes over stationary texture: the same captions and oracle, backgrounds of 1/f noise.

Benchmarks draw it with ``models/texture``, weights that go on from the shipped model's: ``python recipes/train.py
--world texture --from scenes``. Detail is everywhere alike there, so a rule that looks for it finds nothing to choose
by.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from scenes.world import Shapes

from stagevar.scenes.captions import Scene
from stagevar.scenes.render import SIZE, Floats, Picture, background, compose, lay_out

BETAS = (0.8, 1.6)
"""Range of the exponent: amplitude falls as frequency to the minus beta."""
CONTRAST = 0.25
"""Standard deviation of the texture, as a share of the background's brightness."""


class Texture(Shapes):
    """Shapes over texture. The style sets its mean brightness and tint, and chance all else."""

    def render(self, scenes: Sequence[Scene], rng: random.Random) -> Picture:
        return np.stack([_picture(scene, rng) for scene in scenes])


def _picture(scene: Scene, rng: random.Random) -> Picture:
    layout = lay_out(scene, rng)
    waves = noise(rng.uniform(*BETAS), rng.randrange(2**32)).clip(-3, 3)
    brightness = (1 + CONTRAST * waves).astype(np.float32)
    return compose(layout.objects, background(layout.style) * brightness[..., None])


def noise(beta: float, seed: int) -> Floats:
    """Gaussian noise (64, 64) of mean 0 and deviation 1 whose amplitude falls as frequency to the minus ``beta``."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))
    field = np.fft.irfft2(spectrum * frequency**-beta, s=(SIZE, SIZE))
    return (field / field.std()).astype(np.float32)
