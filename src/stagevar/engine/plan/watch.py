"""What a scale's plan asks to be measured while it runs: maps for later scales, numbers for accelerators that decide.

A watch is plain data, and the key under which its numbers and its map are found. What no plan names is not computed. A
map has one value per token of a picture, as a mean over branches and heads, so that every choice made by it is the same
for both branches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.grids.grid import Grid, Scale, Schedule
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.sent import sent
from stagevar.errors import OptionError

QUERIES = 256
"""Rows of attention whose probabilities are held at once."""

Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What numbers may be made of, behind a scale.

    Attributes:
        at: the scale.
        map: (n, M), the watch's own; None for watches that have none.
        latent, change: (n, D, H, W) the latent, and what the scale has added to it.
        decode: the model's, from a latent of any grid to pictures in [0, 1].
        picture_size: the model's, from grids to pixels.
    """

    at: Scale
    map: Tensor | None
    latent: Tensor
    change: Tensor
    decode: Callable[[Tensor], Tensor]
    picture_size: Callable[[Schedule], Grid]


@dataclass(frozen=True, slots=True)
class Watch:
    """Base of all watches. A subclass may make other numbers of the same map.

    Class attributes:
        place: where it is measured: all rows of it must run. ``picture`` is the latent.
        ends: the numbers of a picture that changes everything at every scale, and of one that changes nothing.
        typical: side of a scale relative to the final one, then the numbers there: means over 16 captions of the
            scenes suite, of the model's plain run.
    """

    place: ClassVar[Literal["blocks", "head", "picture"]]
    ends: ClassVar[tuple[Numbers, Numbers]]
    typical: ClassVar[tuple[Numbers, ...]]

    def numbers(self, seen: Seen) -> Tensor:
        """(n, as many as ``ends`` have), on the device: here the map's mean."""
        assert seen.map is not None
        return seen.map.mean(1, keepdim=True)

    def scores(self, map_nM: Tensor) -> Tensor:
        """Scores (n, M) by which rows are chosen: 0 or more, larger is more worth processing."""
        return map_nM


@dataclass(frozen=True, slots=True)
class AttentionEntropy(Watch):
    """How widely the queries of one block look: entropy of each row of self-attention relative to the largest possible
    one (the logarithm of the number of keys). Rows that look at few places are worth most. One number: the mean.

    Attributes:
        block: the block, as a share of the depth in [0, 1), rounded to whole blocks.
    """

    place = "blocks"
    ends: ClassVar[tuple[Numbers, Numbers]] = ((1.0,), (0.0,))
    typical: ClassVar[tuple[Numbers, ...]] = (
        (0.03125, 0.000),
        (0.06250, 0.675),
        (0.09375, 0.741),
        (0.12500, 0.759),
        (0.18750, 0.804),
        (0.25000, 0.817),
        (0.37500, 0.853),
        (0.50000, 0.851),
        (0.75000, 0.876),
        (1.00000, 0.879),
    )
    block: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.block < 1:
            raise OptionError(f"block must be a share of the depth in [0, 1), not {self.block}")

    def layer(self, depth: int) -> int:
        """Index of the block."""
        return min(depth - 1, round(self.block * depth))

    def rows(self, q_RHmD: Tensor, k_RHLD: Tensor, scale: float) -> Tensor:
        """(R, m): a mean over heads."""
        return attention_entropy(q_RHmD, k_RHLD, scale).mean(1) / math.log(max(k_RHLD.shape[2], 2))

    def scores(self, map_nM: Tensor) -> Tensor:
        return 2 - map_nM


@dataclass(frozen=True, slots=True)
class Activity(Watch):
    """How much consecutive blocks change each token: the mean over channels of the squared difference of the residual
    stream (SparseVAR). One number: the mean over tokens relative to the largest.

    Attributes:
        layers: the blocks, as shares of the depth.
    """

    place = "blocks"
    ends: ClassVar[tuple[Numbers, Numbers]] = ((1.0,), (0.0,))
    typical: ClassVar[tuple[Numbers, ...]] = (
        (0.03125, 1.000),
        (0.06250, 0.866),
        (0.09375, 0.637),
        (0.12500, 0.404),
        (0.18750, 0.412),
        (0.25000, 0.427),
        (0.37500, 0.441),
        (0.50000, 0.457),
        (0.75000, 0.453),
        (1.00000, 0.518),
    )
    layers: tuple[float, float] = (3 / 8, 4 / 8)

    def __post_init__(self) -> None:
        if not 0 <= self.layers[0] < self.layers[1] <= 1:
            raise OptionError(f"layers must be two rising shares of the depth in [0, 1], not {self.layers}")

    def blocks(self, depth: int) -> range:
        """The blocks, at least one."""
        first = min(depth - 1, round(self.layers[0] * depth))
        return range(first, max(first + 1, round(self.layers[1] * depth)))

    def rows(self, before_RMC: Tensor, behind_RMC: Tensor) -> Tensor:
        """(R, M)."""
        return (behind_RMC - before_RMC).float().square().mean(2)

    def numbers(self, seen: Seen) -> Tensor:
        assert seen.map is not None
        return (seen.map / seen.map.amax(1, keepdim=True).clamp(min=1e-12)).mean(1, keepdim=True)


@dataclass(frozen=True, slots=True)
class CodeEntropy(Watch):
    """How uncertain the guided codes are: entropy of each token's code at temperature 1, relative to the largest
    possible one; of binary codes a mean over bits. Uncertain tokens are worth most. One number: the mean."""

    place = "head"
    ends: ClassVar[tuple[Numbers, Numbers]] = ((1.0,), (0.0,))
    typical: ClassVar[tuple[Numbers, ...]] = (
        (0.03125, 0.280),
        (0.06250, 0.204),
        (0.09375, 0.139),
        (0.12500, 0.124),
        (0.18750, 0.103),
        (0.25000, 0.087),
        (0.37500, 0.125),
        (0.50000, 0.111),
        (0.75000, 0.219),
        (1.00000, 0.179),
    )

    def rows(self, logits_nMV: Tensor) -> Tensor:
        """(n, M)."""
        entropy = entropy_of(logits_nMV.float()) / math.log(logits_nMV.shape[-1])
        return entropy if entropy.dim() == 2 else entropy.mean(2)

    def scores(self, map_nM: Tensor) -> Tensor:
        return 1 + map_nM


@dataclass(frozen=True, slots=True)
class Thumbnail(Watch):
    """How much fine structure a scale adds to a small decoded picture (SkipVAR). It is decoded on the smallest grid of
    the schedule whose pictures have ``pixels`` on the shorter side, else on the final one, with and without the scale.

    Two numbers, of pictures in [-1, 1], as means over their channels: the mean absolute difference of the two Sobel
    magnitudes; and the share of spectral amplitude beyond ``radius`` of the shorter side's half.
    """

    place = "picture"
    ends: ClassVar[tuple[Numbers, Numbers]] = ((2.0, 1.0), (0.0, 0.0))
    typical: ClassVar[tuple[Numbers, ...]] = (
        (0.03125, 0.033, 0.001),
        (0.06250, 0.026, 0.167),
        (0.09375, 0.066, 0.158),
        (0.12500, 0.049, 0.161),
        (0.18750, 0.074, 0.170),
        (0.25000, 0.076, 0.185),
        (0.37500, 0.078, 0.185),
        (0.50000, 0.089, 0.210),
        (0.75000, 0.056, 0.243),
        (1.00000, 0.150, 0.432),
    )
    pixels: int = 128
    radius: float = 0.4

    def __post_init__(self) -> None:
        if self.pixels < 1 or not 0 < self.radius < 1:
            raise OptionError(f"a thumbnail takes pixels from 1 and a radius in (0, 1), not {self}")

    def numbers(self, seen: Seen) -> Tensor:
        schedule = seen.at.schedule
        sizes = (seen.picture_size(schedule[: k + 1]) for k in range(len(schedule)))
        enough = (k for k, size in enumerate(sizes) if min(size) >= self.pixels)
        grid = schedule[next(enough, len(schedule) - 1)]
        now, before = (
            seen.decode(resize(latent, grid, "bilinear")).float().mul(2).sub(1).mean(1)
            for latent in (seen.latent, seen.latent - seen.change)
        )
        return torch.stack([(sobel(now) - sobel(before)).abs().mean((1, 2)), high_share(now, self.radius)], 1)


def attention_entropy(q_RHmD: Tensor, k_RHLD: Tensor, scale: float) -> Tensor:
    """Entropy (R, H, m) in nats of each query's attention: exact, soft-max in float32, some queries at a time."""
    keys = k_RHLD.float().mT
    return torch.cat([entropy_of(part.float() @ keys * scale) for part in q_RHmD.split(QUERIES, 2)], 2)


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    return torch.special.entr(logits.softmax(-1)).sum(-1)


def sobel(picture_nhw: Tensor) -> Tensor:
    """Length of the Sobel gradient, with zeros around the picture."""
    across = sent(torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]), picture_nhw.device)
    gradient = F.conv2d(picture_nhw[:, None], torch.stack([across, across.T])[:, None], padding=1)
    return gradient.norm(dim=1)


def high_share(picture_nhw: Tensor, radius: float) -> Tensor:
    """Share (n,) of spectral amplitude at frequencies beyond ``radius`` times half of the shorter side."""
    h, w = picture_nhw.shape[1:]
    amplitude = torch.fft.fft2(picture_nhw).abs()
    down, across = (torch.fft.fftfreq(side, device=picture_nhw.device) * min(h, w) for side in (h, w))
    beyond = down[:, None].square() + across.square() > math.floor(radius * min(h, w) / 2) ** 2
    return (amplitude * beyond).sum((1, 2)) / (amplitude.sum((1, 2)) + 1e-6)
