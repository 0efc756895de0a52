"""Decoding in the memory of two of the largest maps: fine levels are computed in bands of rows.

Nothing is convolved twice: a band takes the last row of the band above along, and reads one row of the band below. The
statistics of a norm are those of the whole picture, combined of all bands before the first is normalised. So the result
differs from that of ``Decoder.forward`` by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.families.tokenizers.autoencoder import Decoder, Level, ResidualBlock, Upsample
from stagevar.families.tokenizers.winograd import convolved

WHOLE = 2**24
"""Most numbers of a map that is computed whole. Up to there bands would save little beside the weights."""

BAND = 2**22
"""Numbers of a band, about. On the CPU convolutions of fewer are slower."""


def decoded(decoder: Decoder, latent_nDHW: Tensor, first: nn.Module | None = None) -> Tensor:
    """Pictures (n, 3, height, width) in [0, 1]. They are decoded one by one: a batch would not be faster, takes n times
    the memory, and rounds differently.

    Args:
        decoder: from features to pictures.
        latent_nDHW: n latents.
        first: from a latent to features; None if the latent is the features.
    """
    latents = latent_nDHW.float().split(1)
    pictures = [picture(decoder, latent if first is None else first(latent)) for latent in latents]
    return torch.cat([each.clamp_(-1, 1).add_(1).div_(2) for each in pictures])


def picture(decoder: Decoder, features_1DHW: Tensor, whole: int = WHOLE, band: int = BAND) -> Tensor:
    """What ``Decoder.forward`` gives for one picture, but for rounding. Maps of at most ``whole`` numbers are computed
    whole, larger ones in bands of about ``band`` numbers."""
    x = decoder.mid(decoder.conv_in(features_1DHW.contiguous(memory_format=torch.channels_last)))
    for level in reversed(decoder.up):
        assert isinstance(level, Level)
        for block, attention in zip(level.block, level.attn, strict=True):
            assert isinstance(block, ResidualBlock)
            x = attention(_residual(block, x, band) if x.numel() > whole else block(x))
        step = getattr(level, "upsample", None)
        if isinstance(step, Upsample):
            x = _upsampled(step, x, band) if 4 * x.numel() > whole else step(x)
    if x.numel() <= whole:
        return decoder.conv_out(F.silu(decoder.norm_out(x), inplace=True))
    out = x.new_empty(1, decoder.conv_out.out_channels, *x.shape[2:])
    for rows, result in _convolved(decoder.conv_out, x, _normalised(decoder.norm_out, x, band), band):
        out[:, :, rows] = result
    return out


def _residual(block: ResidualBlock, x: Tensor, band: int) -> Tensor:
    """``ResidualBlock.forward``. The map between the two convolutions gives way to the result, band by band."""
    conv1, conv2 = block.convolutions
    h = _empty(conv1.out_channels, x.shape[2], x.shape[3], like=x, dtype=conv1.weight.dtype)
    for rows, result in _convolved(conv1, x, _normalised(block.norm1, x, band), band):
        h[:, :, rows] = result
    out = h if h.dtype == x.dtype else _empty(conv2.out_channels, x.shape[2], x.shape[3], like=x, dtype=x.dtype)
    for rows, result in _convolved(conv2, h, _normalised(block.norm2, h, band), band):
        out[:, :, rows] = result.to(x.dtype).add_(block.nin_shortcut(x[:, :, rows]))
    return out


def _upsampled(step: Upsample, x: Tensor, band: int) -> Tensor:
    """``Upsample.forward``."""
    h = x.shape[2]
    out = _empty(step.conv.out_channels, 2 * h, 2 * x.shape[3], like=x, dtype=x.dtype)
    count = max(1, band // (4 * x[0, :, 0].numel()))
    for start in range(0, h, count):
        end = min(start + count, h)
        rows = F.pad(x[:, :, max(start - 1, 0) : min(end + 1, h)], (0, 0, int(start == 0), int(end == h)))
        out[:, :, 2 * start : 2 * end] = step(rows, beside=1)
    return out


def _convolved(
    conv: nn.Conv2d, x_1Chw: Tensor, prepared: Callable[[Tensor], Tensor], band: int
) -> Iterator[tuple[slice, Tensor]]:
    """Bands of a 3x3 convolution over ``prepared`` rows of a map, each with its place in the result.

    The caller may overwrite the rows of the map that lie beside a band once it has it.

    Args:
        conv: keeps the grid.
        x_1Chw: the map.
        prepared: maps rows of the map to rows of the convolution's input.
        band: numbers of a band of the input, about.
    """
    h = x_1Chw.shape[2]
    step = max(1, band // x_1Chw[0, :, 0].numel())
    above: Tensor | None = None
    for start in range(0, h, step):
        end = min(start + step, h)
        rows = prepared(x_1Chw[:, :, start : min(end + 1, h)]).to(conv.weight.dtype)
        own, edge = end - start, torch.zeros_like(rows[:, :, :1])
        parts = [edge if above is None else above, rows[:, :, : own + 1], *([edge] if end == h else [])]
        above = rows[:, :, own - 1 : own].clone()
        yield slice(start, end), convolved(torch.cat(parts, 2), conv.weight, conv.bias, padding=(0, 1))


def _normalised(norm: nn.GroupNorm, x_1Chw: Tensor, band: int) -> Callable[[Tensor], Tensor]:
    """Group norm with the statistics of a whole map, then SiLU, for any rows of it."""
    _, C, h, w = x_1Chw.shape
    step = max(1, band // (C * w))
    sums = torch.zeros(2, norm.num_groups, dtype=torch.float64, device=x_1Chw.device)
    for start in range(0, h, step):
        rows = x_1Chw[:, :, start : start + step].float()
        count = rows.shape[2] * w
        _, mean, spread = torch.native_group_norm(rows, None, None, 1, C, count, norm.num_groups, norm.eps)
        mean, variance = mean[0].double(), spread[0].double() ** -2 - norm.eps
        sums += torch.stack([mean, variance + mean**2]) * (count / (h * w))
    mean, square = sums
    factor = (square - mean**2 + norm.eps).rsqrt().repeat_interleave(C // norm.num_groups) * norm.weight.double()
    shift = norm.bias.double() - mean.repeat_interleave(C // norm.num_groups) * factor
    scale_C11, shift_C11 = factor.float()[:, None, None], shift.float()[:, None, None]
    return lambda rows: F.silu(torch.addcmul(shift_C11, rows, scale_C11), inplace=True)


def _empty(channels: int, height: int, width: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A map of one picture, channels last."""
    return like.new_empty(1, height, width, channels, dtype=dtype).permute(0, 3, 1, 2)
