"""The loss of all scales in one pass, by attention that is causal over scales."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from data import Example
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stagevar.engine.contract.block import Block, BlockContext, Condition
from stagevar.engine.grids.grid import scales
from stagevar.families.scenes.network import Scenes

MASKED = 5
"""The first scales share one masked attention; each later one attends to all before it without a mask."""


def scale_losses(model: Scenes, example: Example) -> list[Tensor]:
    """Cross-entropy per scale in nats, all scales in one pass."""
    words, codes, latents, crops, _, seen = example
    every = scales(model.schedule())[: len(codes)]
    with torch.autocast(model.device.type, torch.bfloat16), sdpa_kernel(training_kernels(model.device)):
        condition = model.words_condition(words)
        if seen is not None:
            condition = model.seeing(condition, seen)
        inputs, ropes = [], []
        for at, latent in zip(every, latents, strict=False):
            x, rope = model.embed(latent, condition, at), model.rope(at, condition)
            inputs.append(x[:, crops[at.k]] if at.k in crops else x)
            ropes.append(rope[crops[at.k]] if at.k in crops else rope)
        lengths = [x.shape[1] for x in inputs]
        attend = BlockCausal(lengths, model.device)
        x, rope = torch.cat(inputs, 1), torch.cat(ropes)
        if torch.is_grad_enabled():
            x.requires_grad_()  # where the embedding is frozen too: the first block then has the graph of the others
        for layer, block in enumerate(model.blocks):
            x = compiled_block(block, x, of_layer(condition, layer), rope, attend)
    parts = model.head(x, condition.pooled.float()).float().split(lengths, 1)
    losses = []
    for at, part, latent in zip(every, parts, latents, strict=False):
        logits, told = part + model.level_bias[at.k], model.evidence(latent, condition, at)
        if told is not None:
            logits = logits + (told[:, crops[at.k]] if at.k in crops else told)
        losses.append(F.cross_entropy(logits.flatten(0, 1), codes[at.k].flatten()))
    return losses


@functools.partial(torch.compile, dynamic=False)
def compiled_block(block: Block, x: Tensor, condition: Condition, rope: Tensor, attend: BlockCausal) -> Tensor:
    """One block; all layers share one graph per number of scales, which saves about 30% of a step."""
    out: Tensor = block(x, BlockContext(0, condition, rope, attend))
    return out


def of_layer(condition: Condition, layer: int) -> Condition:
    """The condition of one layer alone, which is then the first."""
    every: dict[str, Any] = {each.name: getattr(condition, each.name) for each in fields(condition)}
    own: dict[str, Any] = {name: (value[layer],) for name, value in every.items() if isinstance(value, tuple)}
    return replace(condition, **own)


def training_kernels(device: torch.device) -> list[SDPBackend]:
    """The fused CPU kernel has a slow backward pass."""
    return [SDPBackend.MATH] if device.type == "cpu" else [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class BlockCausal:
    """Self-attention of all scales at once: a token sees its own scale and the ones before."""

    def __init__(self, lengths: list[int], device: torch.device) -> None:
        ends = [sum(lengths[: k + 1]) for k in range(len(lengths))]
        self.ends = ends[MASKED - 1 :]
        level = torch.cat([torch.full((length,), k, device=device) for k, length in enumerate(lengths[:MASKED])])
        self.mask = torch.zeros(len(level), len(level), device=device, dtype=torch.bfloat16)
        self.mask.masked_fill_(level[:, None] < level[None], -math.inf)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
        out: Tensor = SegmentedAttention.apply(q * scale, k, v, self.ends, self.mask)  # type: ignore[no-untyped-call]
        return out


class SegmentedAttention(torch.autograd.Function):
    """Explicit soft-max attention, segment by segment; keys end where the segment of the query ends."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, ends: list[int], mask: Tensor) -> Tensor:
        probabilities, outputs = [], []
        for index, (start, end) in enumerate(segments(ends)):
            scores = q[:, :, start:end] @ k[:, :, :end].mT
            probabilities.append((scores + mask if index == 0 else scores).softmax(-1))
            outputs.append(probabilities[-1] @ v[:, :, :end])
        ctx.save_for_backward(q, k, v, *probabilities)
        ctx.ends = ends
        return torch.cat(outputs, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *probabilities = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, end), p in zip(segments(ctx.ends), probabilities, strict=True):
            g = grad[:, :, start:end]
            dv[:, :, :end] += p.mT @ g
            ds = torch._softmax_backward_data(g @ v[:, :, :end].mT, p, -1, p.dtype)
            dq[:, :, start:end] = ds @ k[:, :, :end]
            dk[:, :, :end] += ds.mT @ q[:, :, start:end]
        return dq, dk, dv, None, None


def segments(ends: list[int]) -> Iterator[tuple[int, int]]:
    yield from zip([0, *ends[:-1]], ends, strict=True)
