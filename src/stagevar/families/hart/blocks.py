"""Transformer parts of HART: blocks with one norm, rotary factors per channel, and the kinds of modulation.

The code follows mit-han-lab/hart ``modules/networks/basic_hart.py`` for ``attn_type`` and ``mlp_type`` ``llama``. As in
``families/blocks.py``, a part takes the residual stream (R, M, C) in float32 and returns the increment.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.contract.block import Block, BlockContext, Part
from stagevar.engine.grids.grid import Grid
from stagevar.engine.grids.rows import Role
from stagevar.families.blocks import BiasedQueries, cosine_query, merge_heads, rms_norm, split_heads
from stagevar.families.hart.residual import WAVES, waves
from stagevar.families.linear import Linear

Pooling = Literal["max", "avg"]


class HartBlock(Block):
    """Self-attention, then a gated perceptron. The two share one norm, which each applies to its input.

    If the condition has six vectors for the layer (gain 1, gain 2, scale 1, scale 2, shift 1, shift 2), they modulate
    attention and perceptron as in VAR.
    """

    norm: nn.RMSNorm
    attention: SelfAttention
    feed_forward: GatedFeedForward

    def __init__(self, width: int, heads: int, hidden: int, cosine: bool, eps: float) -> None:
        super().__init__(
            norm=nn.RMSNorm(width, eps),
            attention=SelfAttention(width, heads, cosine),
            feed_forward=GatedFeedForward(width, hidden),
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.attend, self.feed

    @property
    def roles(self) -> tuple[Role, ...]:
        return "attention", "feed_forward"

    def attend(self, x: Tensor, context: BlockContext) -> Tensor:
        return self._modulated(x, context, 0)

    def feed(self, x: Tensor, context: BlockContext) -> Tensor:
        return self._modulated(x, context, 1)

    def queries(self, x_RmC: Tensor, context: BlockContext) -> Tensor:
        h, _ = self._adapted(x_RmC, context, 0)
        return self.attention.queries(h)

    def _modulated(self, x: Tensor, context: BlockContext, which: int) -> Tensor:
        h, gain = self._adapted(x, context, which)
        out = (self.attention, self.feed_forward)[which](h, context)
        return out if gain is None else gain.to(out.dtype) * out

    def _adapted(self, x: Tensor, context: BlockContext, which: int) -> tuple[Tensor, Tensor | None]:
        """Input of attention or perceptron, and its gain (R, 1, C)."""
        h = rms_norm(x, self.norm)
        if not context.condition.modulation:
            return h, None
        gain, scale, shift = context.condition.modulation[context.layer][:, which::2, None].unbind(1)
        return h * (1 + scale) + shift, gain


class SelfAttention(BiasedQueries):
    """Self-attention with rotary positions. Its input is normalised by the block, and the keys have no bias.

    With ``cosine``, queries and keys are normalised, and each head has a learned temperature whose logarithm is clamped
    at log 100. Without ``cosine``, scores are scaled by a quarter of the usual 1 / sqrt(D).
    """

    def __init__(self, width: int, heads: int, cosine: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.log_temperature = nn.Parameter(torch.full((heads,), math.log(4.0))) if cosine else None
        self.proj = Linear(width, width)

    def forward(self, h: Tensor, context: BlockContext) -> Tensor:
        bias, _ = self.joined()
        qkv = self.qkv(h.to(self.qkv.weight.dtype), bias)
        q, k, v = (split_heads(part, self.heads) for part in qkv.chunk(3, -1))
        q, k, scale = q.float(), k.float(), 0.25 / math.sqrt(q.shape[-1])
        if self.log_temperature is not None:
            q, k, scale = cosine_query(q, self.log_temperature), F.normalize(k, dim=-1), 1.0
        assert context.rope is not None
        q, k = mix_halves(q, context.rope), mix_halves(k, context.rope)
        out = context.attend(q.to(v.dtype), k.to(v.dtype), v, scale=scale)
        return self.proj(merge_heads(out))

    def queries(self, h: Tensor) -> Tensor:
        """See ``Block.queries``; of input that the block has normalised."""
        return split_heads(self.qkv(h.to(self.qkv.weight.dtype)).chunk(3, -1)[0], self.heads)


class GatedFeedForward(nn.Module):
    """Perceptron with a SiLU gate. Its input is normalised by the block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(width, hidden, bias=False)
        self.up = Linear(width, hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, h: Tensor, context: BlockContext) -> Tensor:
        h = h.to(self.up.weight.dtype)
        return self.down(F.silu(self.gate(h)) * self.up(h))


def mix_halves(x_RHMD: Tensor, factors_RMD2: Tensor) -> Tensor:
    """Mix channels i and i + D/2; each of the two channels has its own cosine and sine.

    For image tokens, channel i has the angle of the row and channel i + D/2 the angle of the column, at the same
    frequency. The mix is therefore no rotation and does not keep lengths. The checkpoints were trained with it.
    """
    cos, sin = factors_RMD2[:, None].unbind(-1)
    first, second = x_RHMD.chunk(2, -1)
    return x_RHMD * cos + torch.cat([-second, first], -1) * sin


def text_factors(positions_RT: Tensor, channels: int, base: float) -> Tensor:
    """Cosine and sine of text positions, (R, T, D, 2). Both halves of the channels have the same D/2 frequencies."""
    return _factors(positions_RT[..., None], channels, base, 2)


def grid_factors(grid: Grid, final: Grid, start_R: Tensor, channels: int, base: float) -> Tensor:
    """Cosine and sine of a grid's tokens, (R, M, D, 2). The first half of the channels has the row's D/4 frequencies
    twice, the second half the column's."""
    return _factors(grid_positions(grid, final, start_R), channels, base, 4)


def grid_positions(grid: Grid, final: Grid, start_R: Tensor) -> Tensor:
    """Row and column of a grid's tokens in raster order, (R, M, 2). The unit is a cell of the final grid, and the first
    row and column are ``start_R``; positions need not be whole numbers."""
    axes = [torch.arange(side, device=start_R.device) / side * last for side, last in zip(grid, final, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    return places + start_R[:, None, None]


def _factors(positions: Tensor, channels: int, base: float, stride: int) -> Tensor:
    """Cosine and sine, (R, M, channels, 2), of positions (R, M, axes). Every axis has the frequencies
    base^(-stride j / channels)."""
    exponents = torch.arange(0, channels, stride, device=positions.device).float() / channels
    angles = positions[..., None].float() * (1.0 / base**exponents)
    angles = angles.repeat(1, 1, 1, 2).flatten(2)
    return torch.stack([angles.cos(), angles.sin()], -1)


class WaveLevel(nn.Module):
    """Embeds a scale's index: a perceptron reads the ``waves`` of the index."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(WAVES, width), nn.SiLU(), Linear(width, width))

    def forward(self, scale: Tensor) -> Tensor:
        return self.mlp(waves(scale))


class TableModulation(nn.Module):
    """Six vectors per layer: learned vectors plus the mean of the text (settings ``shared_aln``, ``disable_aln``)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.tables = nn.ParameterList(torch.zeros(6, width) for _ in range(depth))

    def forward(self, text_RTC: Tensor, mask_RT: Tensor) -> tuple[Tensor, ...]:
        """The six vectors of each layer, (R, 6, C), float32."""
        mean = pooled_text(text_RTC, mask_RT, "avg")[:, None]
        return tuple(table.float() + mean for table in self.tables)


class LayerModulation(nn.Module):
    """Six vectors per layer, each a projection of the pooled text (settings without ``disable_aln``)."""

    def __init__(self, width: int, depth: int, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.layers = nn.ModuleList(Linear(width, 6 * width) for _ in range(depth))

    def forward(self, text_RTC: Tensor, mask_RT: Tensor) -> tuple[Tensor, ...]:
        """The six vectors of each layer, (R, 6, C), float32."""
        pooled = F.silu(pooled_text(text_RTC, mask_RT, self.pooling))
        return tuple(layer(pooled).unflatten(-1, (6, -1)) for layer in self.layers)


def pooled_text(text_RTC: Tensor, mask_RT: Tensor, pooling: Pooling) -> Tensor:
    """Pool a text to (R, C): ``avg`` is the mean of the real text, ``max`` the maximum over text and padding."""
    if pooling == "max":
        return text_RTC.amax(1)
    weights = mask_RT[..., None].float()
    return (text_RTC * weights / weights.sum(1, keepdim=True).clamp(min=1)).sum(1)


class RmsHead(nn.Module):
    """RMS norm modulated by (scale, shift) = Linear(SiLU(pooled)), then the output projection, all in float32."""

    def __init__(self, width: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps)
        self.modulation = Linear(width, 2 * width)
        self.proj = Linear(width, outputs)

    def forward(self, x_RMC: Tensor, pooled_RC: Tensor) -> Tensor:
        scale, shift = self.modulation(F.silu(pooled_RC))[:, None].chunk(2, -1)
        out: Tensor = self.proj(rms_norm(x_RMC, self.norm) * (1 + scale) + shift)
        return out
