"""Transformer parts of Switti: each has one norm before it and one behind it.

Queries and keys are normalised over all heads together (Switti, yandex-research/switti ``models/basic_switti.py``).
As in ``families/blocks.py``, a part takes the residual stream (R, M, C) in float32 and returns the increment.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.contract.block import BlockContext
from stagevar.families.blocks import layer_norm, merge_heads, rms_norm, rotate, split_heads
from stagevar.families.linear import Linear

AcrossHeads = Callable[[Tensor, float], Tensor]
"""Norm of queries and keys over the channels of all heads: ``layer_norm`` unless the heads are on several devices."""

QK_EPS = 1e-6
"""Epsilon of the norms of queries and keys. The other norms have ``SwittiConfig.eps``."""


class SelfAttention(nn.Module):
    """Self-attention between two norms; queries and keys are normalised over all heads together, then rotated.

    Vectors 0 (gain), 2 (scale) and 4 (shift) of the layer's six modulate it. This part computes all six vectors of its
    block from the pooled text and the size and crop condition. A learned factor per channel scales the latter.
    """

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.across_heads: AcrossHeads = layer_norm
        self.modulation = Linear(width, 6 * width)
        self.crop_gain = nn.Parameter(torch.zeros(width))
        self.norm, self.norm_out = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def vectors(self, pooled_RC: Tensor, crop_RC: Tensor) -> Tensor:
        """The block's adaptive-norm vectors (R, 6, C), float32."""
        condition = F.silu(pooled_RC + self.crop_gain.float() * crop_RC)
        return self.modulation(condition.to(self.modulation.weight.dtype)).float().unflatten(-1, (6, -1))

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        gain = context.condition.modulation[context.layer][:, 0]
        parts_RM3C = self.qkv(self.adapted(x, context)).unflatten(-1, (3, -1))
        qk = self.across_heads(parts_RM3C[:, :, :2], QK_EPS).unflatten(-1, (self.heads, -1))
        if context.rope is not None:
            qk = rotate(qk, context.rope[..., None, None, :, :])
        q, k = qk.to(parts_RM3C.dtype).permute(2, 0, 3, 1, 4).unbind()
        out = context.attend(q, k, split_heads(parts_RM3C[:, :, 2], self.heads), scale=q.shape[-1] ** -0.5)
        return gain[:, None] * rms_norm(self.proj(merge_heads(out)), self.norm_out)

    def adapted(self, x: Tensor, context: BlockContext) -> Tensor:
        """The normalised and modulated input in the dtype of the weights."""
        vectors_R6C = context.condition.modulation[context.layer]
        h = rms_norm(x, self.norm) * (1 + vectors_R6C[:, 2, None]) + vectors_R6C[:, 4, None]
        return h.to(self.qkv.weight.dtype)

    def queries(self, x: Tensor, context: BlockContext) -> Tensor:
        """See ``Block.queries``."""
        bare = self.qkv(self.adapted(x, context), torch.zeros_like(self.qkv.bias))
        return split_heads(bare.chunk(3, -1)[0], self.heads)


class CrossAttention(nn.Module):
    """Attention to the text between two norms, with normalised queries and keys, no positions and no gate."""

    def __init__(self, width: int, heads: int, text_channels: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.across_heads: AcrossHeads = layer_norm
        self.norm, self.norm_out = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.norm_text = nn.RMSNorm(text_channels, eps)
        self.q = Linear(width, width)
        self.kv = Linear(text_channels, 2 * width)
        self.proj = Linear(width, width)

    def keys_values(self, text_RTC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (R, H, T, D) of text states (R, T, text channels)."""
        k, v = self.kv(rms_norm(text_RTC, self.norm_text).to(self.kv.weight.dtype)).chunk(2, -1)
        return split_heads(self.across_heads(k, QK_EPS).to(v.dtype), self.heads), split_heads(v, self.heads)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        q = self.across_heads(self.q(rms_norm(x, self.norm).to(self.q.weight.dtype)), QK_EPS)
        k, v = context.condition.text_kv[context.layer]
        mask = context.condition.text_mask
        q = split_heads(q.to(v.dtype), self.heads)
        out = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None])
        return rms_norm(self.proj(merge_heads(out)), self.norm_out)


class GatedFeedForward(nn.Module):
    """Perceptron with a SiLU gate between two norms, modulated by vectors 1 (gain), 3 (scale) and 5 (shift)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        hidden = int(width * 8 / 3)
        self.norm, self.norm_out = nn.RMSNorm(width, eps), nn.RMSNorm(width, eps)
        self.up = Linear(width, hidden, bias=False)
        self.gate = Linear(width, hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        _, gain, _, scale, _, shift = context.condition.modulation[context.layer].unbind(1)
        h = (rms_norm(x, self.norm) * (1 + scale[:, None]) + shift[:, None]).to(self.up.weight.dtype)
        return gain[:, None] * rms_norm(self.down(F.silu(self.gate(h)) * self.up(h)), self.norm_out)
