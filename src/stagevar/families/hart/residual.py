"""A small diffusion model draws for each token what its code leaves out of the latent (HART, arXiv 2410.10812).

The network is the residual perceptron of MAR (Li et al., arXiv 2406.11838). It predicts the noise and the variance of
each step; the variance lies between the two bounds of Nichol and Dhariwal (arXiv 2102.09672). The code follows
mit-han-lab/hart ``modules/diffusion``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stagevar.engine.grids.sent import sent
from stagevar.families.linear import Linear

TRAINING_STEPS = 1000
WAVES = 256
EPS = 1e-6


def waves(numbers: Tensor) -> Tensor:
    """Cosines, then sines, of numbers (...) at 128 wavelengths up to 2 pi 10000: (..., 256)."""
    half = WAVES // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=numbers.device) / half)
    angles = numbers[..., None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def _cosine_alphas() -> NDArray[np.float64]:
    """The cosine schedule: the share of the signal's energy that is left after each training step."""

    def left(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = range(TRAINING_STEPS)
    betas = [min(1 - left((i + 1) / TRAINING_STEPS) / left(i / TRAINING_STEPS), 0.999) for i in steps]
    return np.cumprod(1.0 - np.array(betas, dtype=np.float64), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Coefficients of the sampler, in float64: one per step, from the least noisy step to the noisiest.

    Attributes:
        timesteps: the steps of the training process that the sampler runs.
        betas, alphas_cumprod: noise schedule of this shortened process.
        sqrt_recip_alphas_cumprod, sqrt_recipm1_alphas_cumprod: factors of x and of the noise in the estimate of the
            clean value.
        posterior_mean_coef1, posterior_mean_coef2: factors of the clean value and of x in the mean of the next, less
            noisy x.
        posterior_log_variance_clipped, log_betas: lower and upper bound of the logarithm of a step's variance.
    """

    timesteps: tuple[int, ...]
    betas: NDArray[np.float64]
    alphas_cumprod: NDArray[np.float64]
    sqrt_recip_alphas_cumprod: NDArray[np.float64]
    sqrt_recipm1_alphas_cumprod: NDArray[np.float64]
    posterior_mean_coef1: NDArray[np.float64]
    posterior_mean_coef2: NDArray[np.float64]
    posterior_log_variance_clipped: NDArray[np.float64]
    log_betas: NDArray[np.float64]

    @classmethod
    def of(cls, steps: int) -> Coefficients:
        """The coefficients of ``steps`` evenly spaced training steps."""
        if not 2 <= steps <= TRAINING_STEPS:
            raise ValueError(f"a diffusion takes 2 to {TRAINING_STEPS} steps, not {steps}")
        # The published code adds the stride up and does not multiply it. So does this line, because the two differ in
        # their last bits, and these decide how halves are rounded.
        timesteps = [round(t) for t in accumulate(repeat((TRAINING_STEPS - 1) / (steps - 1), steps - 1), initial=0.0)]
        left = _cosine_alphas()[timesteps]
        betas = 1 - left / np.append(1.0, left[:-1])
        alphas = np.cumprod(1 - betas)
        before = np.append(1.0, alphas[:-1])
        variance = betas * (1 - before) / (1 - alphas)
        return cls(
            timesteps=tuple(timesteps),
            betas=betas,
            alphas_cumprod=alphas,
            sqrt_recip_alphas_cumprod=np.sqrt(1 / alphas),
            sqrt_recipm1_alphas_cumprod=np.sqrt(1 / alphas - 1),
            posterior_mean_coef1=betas * np.sqrt(before) / (1 - alphas),
            posterior_mean_coef2=(1 - before) * np.sqrt(1 - betas) / (1 - alphas),
            posterior_log_variance_clipped=np.log(np.append(variance[1], variance[1:])),
            log_betas=np.log(betas),
        )


class ResidualLayer(nn.Module):
    """Perceptron with a residual connection, modulated by (shift, scale, gain) = Linear(SiLU(y))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.modulation = Linear(width, 3 * width)
        self.up = Linear(width, width)
        self.down = Linear(width, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale, gain = self.modulation(F.silu(y)).chunk(3, -1)
        return x + gain * self.down(F.silu(self.up(self.norm(x) * (1 + scale) + shift)))


class ResidualHead(nn.Module):
    """Draws continuous vectors of D channels given a condition of C channels, token by token, in float32."""

    def __init__(self, channels: int, condition: int, width: int, depth: int, steps: int) -> None:
        super().__init__()
        self.channels = channels
        self.coefficients = Coefficients.of(steps)
        self.time = nn.Sequential(Linear(WAVES, width), nn.SiLU(), Linear(width, width))
        self.condition = Linear(condition, width)
        self.input = Linear(channels, width)
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(depth))
        self.modulation = Linear(width, 2 * width)
        self.output = Linear(width, 2 * channels)

    @property
    def steps(self) -> int:
        return len(self.coefficients.timesteps)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Estimate the noise and the variance, together (..., 2D), from noisy vectors (..., D), time steps (...) or ()
        and conditions (..., C). The variance is a number from -1 (its lower bound) to 1 (its upper bound)."""
        return self.estimate(x, self.time(waves(t)) + self.condition(condition))

    def estimate(self, x: Tensor, y: Tensor) -> Tensor:
        """``forward`` with the sum ``y`` (..., width) of the embedded time and condition."""
        h = self.input(x)
        for layer in self.layers:
            h = layer(h, y)
        shift, scale = self.modulation(F.silu(y)).chunk(2, -1)
        out: Tensor = self.output(F.layer_norm(h, h.shape[-1:], eps=EPS) * (1 + scale) + shift)
        return out

    def draw(self, condition_RMC: Tensor, noise_nMSD: Tensor, guidance: Sequence[float]) -> Tensor:
        """Draw vectors (n, M, D).

        Args:
            condition_RMC: conditions of R = n or 2n rows. Both branches of an image read the same noisy vectors.
            noise_nMSD: S normal numbers per channel for S steps. The first is the start; each step but the last adds
                one of the others.
            guidance: weight w in ``w * cond + (1 - w) * null`` of each image, used if both branches ran. The variance
                comes from the prompt's branch, or from the null branch if w is 0.
        """
        n, _, steps, D = noise_nMSD.shape
        x, c = noise_nMSD[:, :, 0], self.coefficients
        w, condition = (
            sent(torch.tensor(guidance, dtype=x.dtype), x.device).view(n, 1, 1),
            self.condition(condition_RMC),
        )
        for i in reversed(range(steps)):
            time = self.time(waves(torch.full((), c.timesteps[i], device=x.device)))
            out = self.estimate(x.repeat(len(condition) // n, 1, 1), time + condition)
            error, place = out[:n].split(D, -1)
            if len(out) > n:
                error = w * error + (1 - w) * out[n:, :, :D]
                place = torch.where(w == 0, out[n:, :, D:], place)
            clean = (_f(c.sqrt_recip_alphas_cumprod[i]) * x - _f(c.sqrt_recipm1_alphas_cumprod[i]) * error).clamp(-1, 1)
            x = _f(c.posterior_mean_coef1[i]) * clean + _f(c.posterior_mean_coef2[i]) * x
            if i > 0:
                share = (place + 1) / 2
                low, high = _f(c.posterior_log_variance_clipped[i]), _f(c.log_betas[i])
                x = x + torch.exp(0.5 * (share * high + (1 - share) * low)) * noise_nMSD[:, :, steps - i]
        return x


def _f(number: np.float64) -> float:
    """The number rounded to float32."""
    return float(np.float32(number))
