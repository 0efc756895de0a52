"""The binary tokenizer: a convolutional autoencoder whose latent is a sum of sign vectors, one per scale.

Architecture and key names follow the autoencoder of FLUX.1 without its attention blocks; quantisation is multi-scale
binary spherical quantisation (Zhao et al., arXiv 2406.07548; Han et al., Infinity, arXiv 2412.04431, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.loop.contract import spread, token_map, token_rows
from stagevar.loop.latent import resize
from stagevar.loop.plan import Grid, Schedule

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Shape of the autoencoder and of its code.

    Attributes:
        bits: latent channels D, one bit each per position and scale.
        fold: side of the square of latent positions that one token describes (1, or 2 for the "patchify" layout).
        stride: pixels per latent position.
        base: channels of the finest level.
        encoder, decoder: channel multipliers from the finest to the coarsest level; None leaves that half out.
        residual_blocks: per level of the encoder; the decoder has one more.
    """

    bits: int = 32
    fold: int = 1
    stride: int = 16
    base: int = 128
    encoder: tuple[int, ...] | None = (1, 2, 4, 4, 4)
    decoder: tuple[int, ...] | None = (1, 2, 4, 4, 4)
    residual_blocks: int = 2

    @property
    def token_bits(self) -> int:
        """Bits of one token."""
        return self.bits * self.fold**2

    @property
    def token_pixels(self) -> int:
        """Side in pixels of one token of the final grid."""
        return self.stride * self.fold


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=EPS)


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution twice, plus the input (through a 1x1 convolution where the width changes)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), _conv(inputs, outputs)
        self.norm2, self.conv2 = _norm(outputs), _conv(outputs, outputs)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class Middle(nn.Module):
    """Two residual blocks at the coarsest level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = ResidualBlock(channels, channels), ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x))


class Downsample(nn.Module):
    """Halve both sides: 3x3 convolution of stride 2, zeros added at the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double both sides: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, then the step to the next."""

    def __init__(self, inputs: int, outputs: int, blocks: int, **resample: nn.Module) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(inputs if j == 0 else outputs, outputs) for j in range(blocks))
        for name, step in resample.items():
            self.add_module(name, step)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for name, step in self.named_children():
            x = x if name == "block" else step(x)
        return x


class Encoder(nn.Module):
    """Pictures (n, 3, s * H, s * W) in [-1, 1] to features (n, D, H, W), s the stride."""

    def __init__(self, config: TokenizerConfig, multipliers: tuple[int, ...]) -> None:
        super().__init__()
        widths = [config.base, *(config.base * m for m in multipliers)]
        last = len(multipliers) - 1
        self.conv_in = _conv(3, widths[0])
        self.down = nn.ModuleList(
            Level(a, b, config.residual_blocks, **({"downsample": Downsample(b)} if i < last else {}))
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), _conv(widths[-1], config.bits)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.conv_in(pictures)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents (n, D, H, W) to pictures (n, 3, s * H, s * W), about [-1, 1] and not clamped."""

    def __init__(self, config: TokenizerConfig, multipliers: tuple[int, ...]) -> None:
        super().__init__()
        widths = [*(config.base * m for m in multipliers), config.base * multipliers[-1]]
        self.conv_in = _conv(config.bits, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            Level(b, a, config.residual_blocks + 1, **({"upsample": Upsample(a)} if i > 0 else {}))
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norm_out, self.conv_out = _norm(widths[0]), _conv(widths[0], 3)

    def forward(self, latent_nDHW: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latent_nDHW.contiguous(memory_format=torch.channels_last)))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class BinaryTokenizer(nn.Module):
    """Pictures to bits and back, in float32.

    Shapes: n pictures, M = h * w tokens of a scale, d bits per token, D latent channels (d = D * fold^2). The bits of a
    token are ordered by channel, then by row and column within its fold.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = None if config.encoder is None else Encoder(config, config.encoder)
        self.decoder = None if config.decoder is None else Decoder(config, config.decoder)

    def latent_grid(self, grid: Grid) -> Grid:
        """Latent positions of a grid of tokens."""
        return grid[0] * self.config.fold, grid[1] * self.config.fold

    def fold(self, map_nDHW: Tensor) -> Tensor:
        """(n, D, fold * h, fold * w) to tokens (n, h * w, d)."""
        return token_rows(F.pixel_unshuffle(map_nDHW, self.config.fold))

    def unfold(self, tokens_nMd: Tensor, grid: Grid) -> Tensor:
        """Tokens (n, h * w, d) to (n, D, fold * h, fold * w)."""
        return F.pixel_shuffle(token_map(tokens_nMd, grid), self.config.fold)

    def upsampled(self, bits_nMd: Tensor, grid: Grid, final: Grid, index_nr: Tensor | None = None) -> Tensor:
        """What the bits of one scale add to the latent: +-1 / sqrt(D), resized to the final grid (n, D, H, W).

        With ``index`` the bits (n, r, d) belong to these positions and the others add nothing.
        """
        signs = (2 * bits_nMd.float() - 1) / self.config.bits**0.5
        if index_nr is not None:
            signs = spread(signs, index_nr, grid[0] * grid[1])
        return resize(self.unfold(signs, grid), self.latent_grid(final), "bilinear")

    def quantize(self, features_nDHW: Tensor, schedule: Schedule) -> tuple[list[Tensor], Tensor]:
        """Residual quantisation, coarse to fine.

        Returns:
            Bits of every scale, int64 (n, M, d), and the sum of all scales (n, D, H, W).
        """
        rest, bits = features_nDHW, []
        for grid in schedule:
            bits.append(self.fold((resize(rest, self.latent_grid(grid), "area") > 0).float()).long())
            rest = rest - self.upsampled(bits[-1], grid, schedule[-1])
        return bits, self.accumulate(bits, schedule)

    def accumulate(self, bits: Sequence[Tensor], schedule: Schedule) -> Tensor:
        """The latent (n, D, H, W) that the bits of the first scales stand for."""
        parts = [self.upsampled(b, grid, schedule[-1]) for b, grid in zip(bits, schedule, strict=False)]
        return torch.stack(parts).sum(0)

    def encode(self, pictures: Tensor, schedule: Schedule) -> tuple[list[Tensor], Tensor]:
        """``quantize`` of pictures (n, 3, height, width) in [0, 1]."""
        if self.encoder is None:
            raise ValueError("this tokenizer was built without its encoder")
        return self.quantize(self.encoder(pictures.float() * 2 - 1), schedule)

    def decode(self, latent_nDHW: Tensor) -> Tensor:
        """Pictures (n, 3, height, width) in [0, 1]."""
        if self.decoder is None:
            raise ValueError("this tokenizer was built without its decoder")
        return (self.decoder(latent_nDHW.float()).clamp(-1, 1) + 1) / 2
