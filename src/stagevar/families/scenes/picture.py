"""Cross-attention to a picture beside the text: how a frozen network comes to see what it is to restore.

The idea is RestoreVAR's (Rajagopalan, Paranjape, Patel: RestoreVAR: Visual Autoregressive Generation for All-in-One
Image Restoration, arXiv 2505.18047): every block of a pretrained next-scale network attends to the latent of the
degraded picture. Nothing here follows its code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.contract.block import BlockContext, Condition
from stagevar.families.blocks import CrossAttention, merge_heads, rotate, split_heads
from stagevar.families.linear import Linear
from stagevar.families.scenes.config import CHANNELS

HALVED = 2
"""Sides of the latent over those of the grid that is attended to."""

NEAR = (0.7, 1.0, 1.4, 2.0)
"""Biases of queries and keys before training, one of these per head: a rotary position alone then makes a row look at
its own place, the more sharply the larger they are."""

STREAM = 4.0
"""The unit of what is added to the residual stream, whose root mean square in the shipped network is 25 to 80: weights
need not grow far to be heard."""


@dataclass(frozen=True)
class PictureCondition(Condition):
    """The condition of a network that restores.

    Attributes:
        picture_kv: per layer the (R, H, T, D) keys and values of the picture, computed once per picture.
        estimate: (R, D, H, W) what the latent of the picture is thought to be without its fault.
    """

    picture_kv: tuple[tuple[Tensor, Tensor], ...] = ()
    estimate: Tensor | None = None


class PictureEncoder(nn.Module):
    """The latent of a picture (n, D, H, W), each channel about 1 in size, to the latent without the fault, and to
    states (n, H / 2 * W / 2, C), each of which sees its surroundings and the mean of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 3 * width // 4
        self.near = nn.Conv2d(CHANNELS, inner // 2, 3, padding=1)
        self.halve = nn.Conv2d(inner // 2, inner, 2 * HALVED, stride=HALVED, padding=1)
        self.wide = nn.ModuleList(nn.Conv2d(inner, inner, 3, padding=1) for _ in range(2))
        self.whole = nn.Linear(inner, inner)
        self.clean = nn.Conv2d(inner, CHANNELS * HALVED**2, 1)
        self.out = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, latent_nDHW: Tensor) -> tuple[Tensor, Tensor]:
        x = self.halve(F.gelu(self.near(latent_nDHW)))
        for layer in self.wide:
            x = x + layer(F.gelu(x)) + self.whole(x.mean((2, 3)))[:, :, None, None]
        estimate = latent_nDHW + F.pixel_shuffle(self.clean(F.gelu(x)), HALVED)
        return self.norm(self.out(x.flatten(2).mT)), estimate


class PictureAttention(nn.Module):
    """Attention from rows to the states of a picture. Queries and keys are rotated by their places in the picture, so
    that distances decide too. Values are rotated as well, and their sum back by the row's place, so that a row can tell
    which part of a state is its own (Miyato et al.: GTA: A Geometry-Aware Attention Mechanism for Multi-View
    Transformers, arXiv 2310.10375). The output projection begins at zero: it is the gate.

    Attributes:
        states: how many there are of a picture.
    """

    states = 0

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)
        self.proj = Linear(width, width)
        near = torch.tensor([NEAR[head % len(NEAR)] for head in range(heads)]).repeat_interleave(width // heads)
        with torch.no_grad():
            self.q.bias.copy_(near)
            self.kv.bias.copy_(torch.cat([near, torch.zeros(width)]))
            self.proj.weight.zero_()
            self.proj.bias.zero_()

    def keys_values(self, states_nTC: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (n, H, T, D) of the states of pictures (n, T, C) at the places ``rope`` (T, D/2, 2)."""
        kv = self.kv(states_nTC.to(self.kv.weight.dtype))
        k, v = (rotate(split_heads(each, self.heads).float(), rope).to(kv.dtype) for each in kv.chunk(2, -1))
        return k, v

    def forward(self, x_RMC: Tensor, keys: Tensor, values: Tensor, rope: Tensor) -> Tensor:
        """The increment (R, M, C) of normalised rows at the places ``rope`` (M, D/2, 2) or (R, M, D/2, 2)."""
        rope = rope if rope.dim() == 3 else rope[:, None]
        q = rotate(split_heads(self.q(x_RMC), self.heads).float(), rope).to(values.dtype)
        found = F.scaled_dot_product_attention(q, keys, values)
        back = rope * rope.new_tensor([1.0, -1.0])
        out: Tensor = self.proj(merge_heads(rotate(found.float(), back).to(values.dtype)))
        return out * STREAM


class SeeingAttention(CrossAttention):
    """Cross-attention to the text, and beside it to a picture. Until the latter is trained, the increment has the bits
    of the text's alone."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__(width, heads, eps)
        self.picture = PictureAttention(width, heads)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        text, condition = super().forward(x, context), context.condition
        assert isinstance(condition, PictureCondition) and context.rope is not None
        h = F.layer_norm(x.float(), x.shape[-1:], eps=self.norm.eps).to(text.dtype)
        seen = self.picture(h, *condition.picture_kv[context.layer], context.rope)
        return text + seen
