"""The convolutional autoencoder of both tokenizers: it maps pictures to features on a coarse grid, and back.

Architecture and key names follow CompVis/taming-transformers ``modules/diffusionmodules/model.py``. VAR uses
self-attention at the coarsest level; Infinity uses none.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the grid."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=EPS)


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution twice, plus the input (through a 1x1 convolution if the width changes)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), conv(inputs, outputs)
        self.norm2, self.conv2 = _norm(outputs), conv(outputs, outputs)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.nin_shortcut(x))


class Attention(nn.Module):
    """Self-attention with one head over all positions of a grid, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_nChw: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x_nChw)).flatten(2).transpose(1, 2)[:, None].chunk(3, -1)
        out = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape_as(x_nChw)
        return x_nChw + self.proj_out(out)


class Middle(nn.Module):
    """Two residual blocks at the coarsest level, with attention between them if ``attention`` is True."""

    def __init__(self, channels: int, attention: bool) -> None:
        super().__init__()
        self.block_1, self.block_2 = ResidualBlock(channels, channels), ResidualBlock(channels, channels)
        self.attn_1 = Attention(channels) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Halve both sides: a 3x3 convolution of stride 2. Zeros are padded only at the right and at the bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


def doubled(x_nChw: Tensor) -> Tensor:
    """Every position as a square of two by two, (n, C, 2h, 2w), channels last: a copy of whole vectors, which is five
    times as fast on the CPU as ``interpolate``."""
    n, C, h, w = x_nChw.shape
    squares = x_nChw.permute(0, 2, 3, 1)[:, :, None, :, None].expand(n, h, 2, w, 2, C)
    return squares.reshape(n, 2 * h, 2 * w, C).permute(0, 3, 1, 2)


class Upsample(nn.Module):
    """Double both sides: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(doubled(x))


class Level(nn.Module):
    """Residual blocks at one resolution, then ``resample``, the step to the next. If ``attention`` is True, attention
    follows each block."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool, **resample: nn.Module) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(inputs if j == 0 else outputs, outputs) for j in range(blocks))
        self.attn = nn.ModuleList(Attention(outputs) if attention else nn.Identity() for _ in range(blocks))
        for name, step in resample.items():
            self.add_module(name, step)

    def forward(self, x: Tensor) -> Tensor:
        for block, attention in zip(self.block, self.attn, strict=True):
            x = attention(block(x))
        for name, step in self.named_children():
            x = x if name in ("block", "attn") else step(x)
        return x


class Encoder(nn.Module):
    """Pictures (n, 3, s * H, s * W) in [-1, 1] to features (n, D, H, W); s = 2 ** (levels - 1).

    Args:
        multipliers: channels of each level as multiples of ``base``, from the finest to the coarsest level.
        base: channels of the finest level.
        blocks: residual blocks per level.
        channels: channels D of the features.
        attention: whether the coarsest level has attention.
    """

    def __init__(
        self, multipliers: tuple[int, ...], base: int, blocks: int, channels: int, attention: bool = False
    ) -> None:
        super().__init__()
        widths = [base, *(base * m for m in multipliers)]
        last = len(multipliers) - 1
        self.conv_in = conv(3, widths[0])
        self.down = nn.ModuleList(
            Level(a, b, blocks, attention and i == last, **({"downsample": Downsample(b)} if i < last else {}))
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.mid = Middle(widths[-1], attention)
        self.norm_out, self.conv_out = _norm(widths[-1]), conv(widths[-1], channels)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.conv_in(pictures)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x)), inplace=True))


class Decoder(nn.Module):
    """Latents (n, D, H, W) to pictures (n, 3, s * H, s * W). Values lie roughly in [-1, 1]; they are not clamped.

    Arguments are those of ``Encoder``, but each level has ``blocks + 1`` residual blocks.
    """

    def __init__(
        self, multipliers: tuple[int, ...], base: int, blocks: int, channels: int, attention: bool = False
    ) -> None:
        super().__init__()
        widths = [*(base * m for m in multipliers), base * multipliers[-1]]
        last = len(multipliers) - 1
        self.conv_in = conv(channels, widths[-1])
        self.mid = Middle(widths[-1], attention)
        self.up = nn.ModuleList(
            Level(b, a, blocks + 1, attention and i == last, **({"upsample": Upsample(a)} if i > 0 else {}))
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norm_out, self.conv_out = _norm(widths[0]), conv(widths[0], 3)

    def forward(self, latent_nDHW: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latent_nDHW.contiguous(memory_format=torch.channels_last)))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))
