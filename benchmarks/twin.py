"""The reference twin: VAR and Infinity as their authors' code runs them, over the weights of our models.

Written after the published code (FoundationVision/VAR ``models/var.py`` and ``models/basic_var.py``,
FoundationVision/Infinity ``models/infinity.py`` and ``models/basic.py``). At every scale it computes the modulation of
every block and projects the text to keys and values again, joins the biases of queries, keys and values, keeps keys in
float32, lengthens the cache by concatenation, sorts all codes before it samples, and draws with ``multinomial``. Text
is padded where the authors use variable-length attention. The decoder runs in float32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.contract.block import Block
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule, scales
from stagevar.families.blocks import CrossAttention, FeedForward, SelfAttention
from stagevar.families.infinity.network import Infinity
from stagevar.families.tokenizers.autoencoder import Attention, Decoder, Level, ResidualBlock, Upsample
from stagevar.families.var.network import VAR

History = list[tuple[Tensor, Tensor] | None]
Watch = Callable[[int, Tensor, Tensor], None]
"""``(scale, guided logits, codes)``."""


class Twin:
    """Draws pictures from a copy of a model's weights.

    Args:
        model: a VAR or an Infinity.
        dtype: of the blocks; all else is float32.

    Attributes:
        kv_bytes: most bytes of keys and values at once so far; a concatenation holds its old tensors too.
    """

    def __init__(self, model: VAR | Infinity, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.dtype, self.kv_bytes = copy.deepcopy(model), dtype, 0
        self.model.blocks.to(dtype)
        self.blocks = [cast(Block, block) for block in self.model.blocks]

    @torch.inference_mode()
    def latent(
        self,
        text: Text,
        schedule: Schedule,
        guidance: Sequence[float],
        temperature: Sequence[float] | float,
        *,
        top_k: int,
        top_p: float,
        greedy: bool = False,
        watch: Watch | None = None,
    ) -> Tensor:
        """The final latent (n, D, H, W) of n texts, their branches guided on the logits; ``greedy`` takes the likeliest
        code instead of a draw."""
        model, n = self.model, len(text)
        condition = model.condition(text)
        given = self._text(text) if isinstance(model, Infinity) else None
        latent, history = model.empty_latent(n, schedule), cast(History, [None] * model.depth)
        for at in scales(schedule):
            x = model.embed(latent, condition, at)
            shared = self._shared(condition.pooled)
            rope = model.rope(at, condition)
            for layer, block in enumerate(self.blocks):
                x = self._block(x, block, layer, shared, condition.pooled, rope, given, history)
            logits = model.logits(x, condition, at) / (
                temperature if isinstance(temperature, float) else temperature[at.k]
            )
            w = guidance[at.k]
            logits = w * logits[:n] + (1 - w) * logits[n:]
            codes = logits.argmax(-1) if greedy else sample(logits, top_k, top_p)
            if watch is not None:
                watch(at.k, logits, codes)
            latent = self._add(latent, codes, at)
        return latent

    @torch.inference_mode()
    def decode(self, latent: Tensor) -> Tensor:
        """Pictures (n, 3, height, width) in [0, 1], in float32."""
        x = latent.float()
        if isinstance(self.model, VAR):
            x = self.model.tokenizer.post_quant_conv(x)
        return (_decoded(cast(Decoder, self.model.tokenizer.decoder), x).clamp(-1, 1) + 1) / 2

    def _text(self, text: Text) -> tuple[Tensor, Tensor]:
        """Text states for cross-attention, and which of them are real, as an additive mask."""
        model = cast(Infinity, self.model)
        nulls = [model.null_text[: len(states)] for states in text.features]
        _, states, mask = model.read_text([*text.features, *nulls])
        return states, torch.zeros_like(mask, dtype=self.dtype).masked_fill_(~mask, -torch.inf)[:, None, None]

    def _shared(self, pooled: Tensor) -> Tensor | None:
        """The projection that all blocks add their own tables to."""
        modulation = self.model.modulation
        if modulation is None:
            return None
        return modulation.shared(F.silu(pooled).to(modulation.shared.weight.dtype)).float().unflatten(-1, (6, -1))

    def _block(
        self,
        x: Tensor,
        block: Block,
        layer: int,
        shared: Tensor | None,
        pooled: Tensor,
        rope: Tensor | None,
        text: tuple[Tensor, Tensor] | None,
        history: History,
    ) -> Tensor:
        attention = cast(SelfAttention, block.attention)
        modulation = self.model.modulation
        if shared is None or modulation is None:
            vectors = attention.vectors(pooled)
        else:
            vectors = shared + modulation.tables[layer].float()
        gain1, gain2, scale1, scale2, shift1, shift2 = (each[:, None] for each in vectors.unbind(1))
        h = F.layer_norm(x, x.shape[-1:], eps=attention.eps).mul(scale1 + 1).add(shift1)
        x = x + self._attend(h, attention, layer, rope, history).mul(gain1)
        if text is not None:
            x = x + self._cross(x, cast(CrossAttention, block.cross), *text)
        feed = cast(FeedForward, block.feed_forward)
        h = F.layer_norm(x, x.shape[-1:], eps=feed.eps).mul(scale2 + 1).add(shift2)
        return x + feed.down(F.gelu(feed.up(h.to(self.dtype)), approximate="tanh")).mul(gain2)

    def _attend(self, h: Tensor, part: SelfAttention, layer: int, rope: Tensor | None, history: History) -> Tensor:
        R, M, C = h.shape
        bias = torch.cat([part.q_bias, torch.zeros_like(part.q_bias), part.v_bias])
        qkv = F.linear(h.to(self.dtype), part.qkv.weight, bias).view(R, M, 3, part.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scale = 0.25 * q.shape[-1] ** -0.5
        if part.log_temperature is not None:
            gain = part.log_temperature.float().clamp_max(math.log(100)).exp()[:, None, None]
            q, k, scale = F.normalize(q.float(), dim=-1).mul(gain), F.normalize(k.float(), dim=-1), 1.0
        if rope is not None:
            q, k = _rotated(q, rope), _rotated(k, rope)
        past = history[layer]
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        history[layer] = k, v
        held = [tensor for pair in (*history, past) if pair is not None for tensor in pair]
        self.kv_bytes = max(self.kv_bytes, sum(tensor.nbytes for tensor in held))
        out = F.scaled_dot_product_attention(q.to(self.dtype), k.to(self.dtype), v.to(self.dtype), scale=scale)
        return cast(Tensor, part.proj(out.transpose(1, 2).reshape(R, M, C)))

    def _cross(self, x: Tensor, part: CrossAttention, states: Tensor, mask: Tensor) -> Tensor:
        h = F.layer_norm(x, x.shape[-1:], part.norm.weight.float(), part.norm.bias.float(), part.norm.eps)
        bias = torch.cat([torch.zeros_like(part.v_bias), part.v_bias])
        kv = F.linear(states.to(self.dtype), part.kv.weight, bias)
        q, k, v = (
            each.unflatten(-1, (part.heads, -1)).transpose(1, 2)
            for each in (part.q(h.to(self.dtype)), *kv.chunk(2, -1))
        )
        out = F.scaled_dot_product_attention(q, k, v, mask)
        return cast(Tensor, part.proj(out.transpose(1, 2).flatten(2)))

    def _add(self, latent: Tensor, codes: Tensor, at: Scale) -> Tensor:
        return self.model.add_codes(latent, codes, at.schedule, at.k)


def sample(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """One draw per row of the last axis, among the ``top_k`` likeliest entries that hold ``top_p`` of the mass."""
    *rows, V = logits.shape
    if top_k > 0:
        logits = logits.masked_fill(logits < logits.topk(min(top_k, V), -1).values[..., -1:], -torch.inf)
    if top_p < 1:
        ascending, order = logits.sort(dim=-1, descending=False)
        drop = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        drop[..., -1:] = False
        logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    return torch.multinomial(logits.softmax(-1).view(-1, V), 1, replacement=True).view(*rows)


def _rotated(x: Tensor, rope: Tensor) -> Tensor:
    """Channel pairs (2i, 2i + 1) turned by the angles of ``rope`` (M, D / 2, 2)."""
    cos, sin = rope.unbind(-1)
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    turned = [cos * pairs[..., 0] - sin * pairs[..., 1], sin * pairs[..., 0] + cos * pairs[..., 1]]
    return torch.stack(turned, -1).reshape(x.shape)


def _decoded(decoder: Decoder, x: Tensor) -> Tensor:
    """The decoder in the memory format of its weights."""
    middle = decoder.mid
    x = _residual(middle.block_1, decoder.conv_in(x))
    x = _residual(middle.block_2, _attended(middle.attn_1, x))
    for level in reversed([cast(Level, each) for each in decoder.up]):
        for block, attention in zip(level.block, level.attn, strict=True):
            x = _attended(attention, _residual(cast(ResidualBlock, block), x))
        for step in level.children():
            if isinstance(step, Upsample):
                x = step.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    return cast(Tensor, decoder.conv_out(F.silu(decoder.norm_out(x))))


def _residual(block: ResidualBlock, x: Tensor) -> Tensor:
    h = block.conv1(F.silu(block.norm1(x), inplace=True))
    h = block.conv2(F.silu(block.norm2(h), inplace=True))
    return cast(Tensor, block.nin_shortcut(x)) + h


def _attended(part: nn.Module, x: Tensor) -> Tensor:
    """Attention of one head over all positions, by two matrix products and a softmax."""
    if not isinstance(part, Attention):
        return x
    n, C, h, w = x.shape
    q, k, v = part.qkv(part.norm(x)).view(n, 3, C, h * w).unbind(1)
    weights = torch.bmm(q.transpose(1, 2).contiguous(), k).mul(C**-0.5).softmax(2)
    return x + cast(Tensor, part.proj_out(torch.bmm(v, weights.transpose(1, 2)).view(n, C, h, w)))
