"""The convolutional autoencoder of both tokenizers: it maps pictures to features on a coarse grid, and back.

Architecture and key names follow CompVis/taming-transformers ``modules/diffusionmodules/model.py``. VAR uses
self-attention at the coarsest level; Infinity uses none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.families.tokenizers.winograd import convolved

EPS = 1e-6

Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A 3x3 convolution that keeps the grid, of a map by a weight and a bias."""


def direct(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=1)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the grid."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=EPS)


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution twice, plus the input (through a 1x1 convolution if the width changes)."""

    def __init__(self, inputs: int, outputs: int, convolve: Convolve) -> None:
        super().__init__()
        self.convolve = convolve
        self.norm1, self.conv1 = _norm(inputs), conv(inputs, outputs)
        self.norm2, self.conv2 = _norm(outputs), conv(outputs, outputs)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self._half: tuple[nn.Conv2d, nn.Conv2d] | None = None

    def halve(self, half: bool) -> None:
        """Let both convolutions compute in bfloat16, with a copy of their weights, or no longer. The sum of all blocks
        and what normalises it stay in float32."""
        copies = copy.deepcopy(self.conv1).bfloat16(), copy.deepcopy(self.conv2).bfloat16()
        self._half = copies if half else None

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._half = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    @property
    def convolutions(self) -> tuple[nn.Conv2d, nn.Conv2d]:
        """Those that compute: in float32, or their copies in bfloat16."""
        return self._half or (self.conv1, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        conv1, conv2 = self.convolutions
        h = self.convolve(F.silu(self.norm1(x), inplace=True).to(conv1.weight.dtype), conv1.weight, conv1.bias)
        h = self.convolve(F.silu(self.norm2(h), inplace=True), conv2.weight, conv2.bias)
        return h.float().add_(self.nin_shortcut(x))


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

    def __init__(self, channels: int, attention: bool, convolve: Convolve) -> None:
        super().__init__()
        self.block_1, self.block_2 = (ResidualBlock(channels, channels, convolve) for _ in range(2))
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


class Upsample(nn.Module):
    """Double both sides: nearest neighbour, then a 3x3 convolution.

    Each output position sees only 2x2 different inputs, so that the nine weights add up to four, in four ways: one 2x2
    convolution of four times the outputs has 4/9 of the operations.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x_nChw: Tensor, beside: int = 0) -> Tensor:
        """The doubled map of all rows but the ``beside`` first and last ones (0, or 1 for rows of a larger map)."""
        n, _, h, w = x_nChw.shape
        h -= 2 * beside
        kernels, bias = four_kernels(self.conv.weight).flatten(0, 2), self.conv.bias
        assert bias is not None
        kernels = kernels.contiguous(memory_format=torch.channels_last)
        found = convolved(x_nChw, kernels, bias.repeat(4), padding=(1 - beside, 1))
        found = found.permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1))
        out = found.new_empty(n, h, 2, w, 2, found.shape[-1])
        for i in (0, 1):
            for j in (0, 1):
                out[:, :, i, :, j] = found[:, i : i + h, j : j + w, i, j]
        return out.view(n, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)


def four_kernels(weight_OI33: Tensor) -> Tensor:
    """The 2x2 kernels (2, 2, O, I, 2, 2) that even and odd rows and columns of a doubled map see of a 3x3 kernel."""

    def halves(weight: Tensor, axis: int) -> Tensor:
        first, middle, last = weight.unbind(axis)
        return torch.stack([torch.stack([first, middle + last], axis), torch.stack([first + middle, last], axis)])

    return halves(halves(weight_OI33, 2), 4).transpose(0, 1)


class Level(nn.Module):
    """Residual blocks at one resolution, then ``resample``, the step to the next. If ``attention`` is True, attention
    follows each block."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, attention: bool, convolve: Convolve, **resample: nn.Module
    ) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.block = nn.ModuleList(ResidualBlock(*pair, convolve) for pair in pairwise(widths))
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
            Level(a, b, blocks, attention and i == last, direct, **({"downsample": Downsample(b)} if i < last else {}))
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.mid = Middle(widths[-1], attention, direct)
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
        self.mid = Middle(widths[-1], attention, convolved)
        self.up = nn.ModuleList(
            Level(b, a, blocks + 1, attention and i == last, convolved, **({"upsample": Upsample(a)} if i > 0 else {}))
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norm_out, self.conv_out = _norm(widths[0]), conv(widths[0], 3)
        self.halved: int | None = None
        """How many of the finest levels compute in bfloat16; None until it is decided."""

    def halve(self, levels: int) -> None:
        """Let the residual blocks of the given number of finest levels compute in bfloat16, all others in float32. The
        steps between levels stay in float32: they replace the whole map, so that their rounding would count most."""
        self.halved = levels
        for i, level in enumerate(self.up):
            for block in cast(Level, level).block:
                cast(ResidualBlock, block).halve(i < levels)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self.halved = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, latent_nDHW: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latent_nDHW.contiguous(memory_format=torch.channels_last)))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))
