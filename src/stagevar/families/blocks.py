"""Transformer parts that several families share.

Each part takes the residual stream (R, M, C) in float32, normalises it, computes in the dtype of its weights and
returns the increment with its gain applied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.contract.block import BlockContext
from stagevar.families.linear import Linear, Packed

ROW_BY_ROW = 16
"""Tokens from which a modulated norm runs image by image on the CPU: one operation in place of two over all rows."""

NORM_EPS = 1e-12
"""Least length that queries and keys are divided by (``torch.nn.functional.normalize``)."""


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """Layer norm over the last axis without affine parameters, in float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps)


def rms_norm(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """Apply an RMS norm in float32, whatever dtype its weight has."""
    return F.rms_norm(x.float(), x.shape[-1:], norm.weight.float(), norm.eps)


def modulate(
    x_RMC: Tensor, scale_RC: Tensor, shift_RC: Tensor, eps: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Adaptive layer norm: ``norm(x) * (1 + scale) + shift``, computed in float32 and returned in ``dtype``."""
    R, M, C = x_RMC.shape
    x, scale, shift = x_RMC.float(), 1 + scale_RC.float(), shift_RC.float()
    if x.is_cuda or M < ROW_BY_ROW:
        return torch.addcmul(shift[:, None], layer_norm(x, eps), scale[:, None]).to(dtype)
    out = torch.empty_like(x, dtype=dtype)
    for r in range(R):
        out[r] = F.layer_norm(x[r], (C,), scale[r], shift[r], eps)
    return out


def adapted(
    x_RMC: Tensor, context: BlockContext, part: int, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """The normalised input of part 0 or 1 of a block in ``dtype``, and the part's gain (R, 1, C).

    A layer has six vectors: 0 and 1 are the gains of the two parts, 2 and 3 the scales, 4 and 5 the shifts. A condition
    without modulation gets a plain layer norm and no gain (STAR).
    """
    if not context.condition.modulation:
        return layer_norm(x_RMC, eps).to(dtype), None
    vectors_R6C = context.condition.modulation[context.layer]
    h = modulate(x_RMC, vectors_R6C[:, 2 + part], vectors_R6C[:, 4 + part], eps, dtype)
    return h, vectors_R6C[:, part, None]


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate adjacent channel pairs (2i, 2i + 1) of (..., D), float32, by the angles of ``rope`` (..., D/2, 2): a
    product of complex numbers. The leading axes broadcast."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(rope)).flatten(-2)


def split_heads(x_RMC: Tensor, heads: int) -> Tensor:
    """(R, M, C) to (R, heads, M, C / heads)."""
    return x_RMC.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x_RHMD: Tensor) -> Tensor:
    """(R, H, M, D) to (R, M, H * D)."""
    return x_RHMD.transpose(1, 2).flatten(2)


def padded_text(texts: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad R texts (T_i, C) to float32 states (R, T, C); T is the longest T_i. The mask (R, T) is True at real text."""
    rows = [states.to(device, torch.float32) for states in texts]
    lengths = torch.tensor([len(states) for states in rows], device=device)
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return padded, torch.arange(padded.shape[1], device=device) < lengths[:, None]


def queries_keys_values(
    qkv_RMC: Tensor, heads: int, lengths: Tensor | None, rope: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (R, H, M, D) of one projection (R, M, 3 * H * D), in its dtype.

    Args:
        qkv_RMC: queries of all heads, then keys, then values.
        heads: H.
        lengths: (2, H, 1), float32: queries and keys are normalised to these lengths; None leaves them as they are.
        rope: (M, D/2, 2) or (R, M, D/2, 2), by which queries and keys are rotated, or None.
    """
    parts_RM3HD = qkv_RMC.unflatten(-1, (3, heads, -1))
    qk = parts_RM3HD[:, :, :2]
    if lengths is not None:
        qk = qk.float()
        qk = qk * (lengths / torch.linalg.vector_norm(qk, dim=-1, keepdim=True).clamp_min(NORM_EPS))
    if rope is not None:
        qk = rotate(qk.float(), rope[..., None, None, :, :])
    q, k = qk.to(qkv_RMC.dtype).permute(2, 0, 3, 1, 4).unbind()
    return q, k, parts_RM3HD[:, :, 2].transpose(1, 2)


def head_temperature(log_temperature_H: Tensor) -> Tensor:
    """Length (H,) of the queries in attention by cosine, in float32: exp(log temperature), at most 100."""
    return log_temperature_H.float().clamp(max=math.log(100.0)).exp()


def query_key_lengths(log_temperature_H: Tensor) -> Tensor:
    """Lengths (2, H, 1) for attention by cosine: those of ``head_temperature`` for queries, 1 for keys."""
    temperature = head_temperature(log_temperature_H)
    return torch.stack([temperature, torch.ones_like(temperature)])[..., None]


def cosine_query(q_RHMD: Tensor, log_temperature_H: Tensor) -> Tensor:
    """Queries for attention by cosine, in float32. The caller normalises the keys."""
    return F.normalize(q_RHMD.float(), dim=-1) * head_temperature(log_temperature_H)[:, None, None]


class BiasedQueries(Packed):
    """Base of self-attention whose queries and values have a bias and whose keys have none. Packed, it keeps the joined
    bias and the lengths, which every call needs."""

    q_bias: nn.Parameter
    v_bias: nn.Parameter
    log_temperature: nn.Parameter | None
    _joined: tuple[Tensor, Tensor | None] | None = None

    def joined(self) -> tuple[Tensor, Tensor | None]:
        """Bias (3 * width,) of queries, keys and values, and ``query_key_lengths`` (2, H, 1) if there is a
        temperature."""
        if self._joined is not None:
            return self._joined
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return bias, None if self.log_temperature is None else query_key_lengths(self.log_temperature)

    def pack(self) -> None:
        if self._joined is None and not self.q_bias.requires_grad:
            self._joined = self.joined()

    def unpack(self) -> None:
        self._joined = None


class SelfAttention(BiasedQueries):
    """Self-attention with normalised queries and keys and a learned temperature per head. Queries and keys are rotated
    if the context has ``rope``.

    The layer's vectors modulate it as part 0 (see ``adapted``). The keys have no bias. The logarithm of the temperature
    is clamped at log 100 (VAR, FoundationVision/VAR models/basic_var.py).

    Args:
        cosine: whether queries and keys are normalised. If not, scores are scaled by a quarter of the usual
            1 / sqrt(D).
        modulating: whether this part has a projection of its own that computes the six vectors of its block
            (``vectors``).
    """

    def __init__(self, width: int, heads: int, eps: float, cosine: bool = True, modulating: bool = False) -> None:
        super().__init__()
        self.heads, self.eps = heads, eps
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.log_temperature = nn.Parameter(torch.full((heads,), math.log(4.0))) if cosine else None
        self.proj = Linear(width, width)
        self.modulation = Linear(width, 6 * width) if modulating else None

    def vectors(self, pooled_RC: Tensor) -> Tensor:
        """The block's adaptive-norm vectors (R, 6, C), float32, in the order of ``SharedModulation``."""
        assert self.modulation is not None
        h = F.silu(pooled_RC).to(self.modulation.weight.dtype)
        return self.modulation(h).float().unflatten(-1, (6, -1))

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        h, gain = adapted(x, context, 0, self.eps, self.qkv.weight.dtype)
        bias, lengths = self.joined()
        q, k, v = queries_keys_values(self.qkv(h, bias), self.heads, lengths, context.rope)
        out = context.attend(q, k, v, scale=1.0 if self.log_temperature is not None else 0.25 * q.shape[-1] ** -0.5)
        increment: Tensor = self.proj(merge_heads(out))
        return increment if gain is None else gain.to(v.dtype) * increment

    def queries(self, x: Tensor, context: BlockContext) -> Tensor:
        """See ``Block.queries``."""
        h, _ = adapted(x, context, 0, self.eps, self.qkv.weight.dtype)
        return split_heads(self.qkv(h).chunk(3, -1)[0], self.heads)


class CrossAttention(nn.Module):
    """Attention to the text, with plain softmax and without a gate.

    ``keys_values`` is computed once per image. The keys have no bias (Infinity, FoundationVision/Infinity
    models/basic.py).
    """

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=eps)
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = Linear(width, width)

    def keys_values(self, text_RTC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (R, H, T, D) of projected text (R, T, C)."""
        text = text_RTC.to(self.kv.weight.dtype)
        k, v = self.kv(text, torch.cat([torch.zeros_like(self.v_bias), self.v_bias])).chunk(2, -1)
        return split_heads(k, self.heads), split_heads(v, self.heads)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        norm = F.layer_norm(x.float(), x.shape[-1:], self.norm.weight.float(), self.norm.bias.float(), self.norm.eps)
        q = split_heads(self.q(norm.to(self.q.weight.dtype)), self.heads)
        k, v = context.condition.text_kv[context.layer]
        mask = context.condition.text_mask
        out = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None])
        return self.proj(merge_heads(out))


class FeedForward(nn.Module):
    """Two-layer perceptron with tanh-approximated GELU. The layer's vectors modulate it as part 1 (see ``adapted``)."""

    def __init__(self, width: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        h, gain = adapted(x, context, 1, self.eps, self.up.weight.dtype)
        increment: Tensor = self.down(self.up(h, gelu=True))
        return increment if gain is None else gain.to(increment.dtype) * increment


class AdaptiveHead(nn.Module):
    """Layer norm modulated by (scale, shift) = Linear(SiLU(pooled)), then the output projection, all in float32."""

    def __init__(self, width: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.modulation = Linear(width, 2 * width)
        self.proj = Linear(width, outputs)

    def forward(self, x_RMC: Tensor, pooled_RC: Tensor) -> Tensor:
        scale, shift = self.modulation(F.silu(pooled_RC.float())).chunk(2, -1)
        out: Tensor = self.proj(modulate(x_RMC, scale, shift, self.eps))
        return out


class SharedModulation(nn.Module):
    """Adaptive-norm vectors of all layers: one projection of SiLU(pooled) plus a learned table per layer.

    The six vectors of a layer are gain 1, gain 2, scale 1, scale 2, shift 1, shift 2, in this order (VAR with
    ``shared_aln``; Infinity).
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.shared = Linear(width, 6 * width)
        self.tables = nn.ParameterList(torch.zeros(6, width) for _ in range(depth))

    def forward(self, pooled_RC: Tensor) -> tuple[Tensor, ...]:
        """The six vectors of each layer, (R, 6, C), float32."""
        shared = self.shared(F.silu(pooled_RC).to(self.shared.weight.dtype)).float().unflatten(-1, (6, -1))
        return tuple(shared + table.float() for table in self.tables)
