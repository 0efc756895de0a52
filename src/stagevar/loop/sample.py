"""Draw the codes of one scale, with noise that is a function of (seed, scale, position) alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.loop.plan import ScalePlan

Uniforms = Callable[[int, int, Sequence[int]], Tensor]
"""``(seed, scale, shape)`` to uniform numbers in [0, 1), positions on the first axis; ``uniforms`` is the engine's own.
"""


def uniforms(seed: int, scale: int, shape: Sequence[int]) -> Tensor:
    """Uniform numbers in [0, 1) for one image at one scale, float32 of the given shape (positions first).

    They are the raw stream of a Philox counter generator keyed by ``(seed, scale)``, so a position receives the same
    number in every plan, batch and process (Salmon et al., SC 2011).
    """
    count = int(np.prod(shape))
    raw = np.random.Philox(key=np.array([seed % 2**64, scale], dtype=np.uint64)).random_raw(count)
    return torch.from_numpy(((raw >> np.uint64(41)).astype(np.float32)) * np.float32(2.0**-23)).view(*shape)


def normals(
    seeds: Sequence[int], scale: int, tokens: int, channels: int, index_nr: Tensor | None, device: torch.device
) -> Tensor:
    """Normal numbers (n, tokens, channels), or (n, r, channels) at the given positions: a stream per seed and scale
    that has nothing in common with that of ``uniforms``."""
    rows = []
    for i, seed in enumerate(seeds):
        stream = np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, 2**33 + scale], dtype=np.uint64)))
        row = torch.from_numpy(stream.standard_normal((tokens, channels), dtype=np.float32)).to(device)
        rows.append(row if index_nr is None else row[index_nr[i]])
    return torch.stack(rows)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Set all but the ``top_k`` largest entries of the last axis to -inf; ties at the boundary survive."""
    if not 0 < top_k < logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[..., -1:], -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Set the least likely entries that hold at most ``1 - top_p`` of the mass to -inf; the largest survives."""
    if top_p >= 1:
        return logits
    ascending, order = logits.sort(dim=-1)
    drop = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    drop[..., -1] = False
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution: the first code whose cumulative mass exceeds ``uniform``.

    Args:
        logits: (..., V), -inf allowed.
        uniform: (...), in [0, 1).

    Returns:
        int64 (...), never a code of probability 0.
    """
    cumulative = logits.float().softmax(-1).cumsum(-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    return (cumulative <= threshold).sum(-1).clamp_(max=logits.shape[-1] - 1)


def mixture(logits: Tensor, strength: float, uniform: Tensor) -> Tensor:
    """Weights over the codes by a Gumbel softmax, the smoothed sampling of VAR (``more_smooth`` of ``models/var.py``).

    Args:
        logits: (..., V), -inf allowed.
        strength: r in [0, 1]; the logits are multiplied by 1 + r and the softmax has temperature 0.27 - 0.2565 r.
        uniform: (..., V), in [0, 1).

    Returns:
        (..., V), 0 where the logits are -inf and of sum 1.
    """
    gumbel = -(-uniform.clamp(min=2.0**-24).log()).log()
    return ((logits * (1 + strength) + gumbel) / _softness(strength)).softmax(-1).to(logits.dtype)


def _softness(strength: float) -> float:
    return max(0.27 * (1 - 0.95 * strength), 0.005)


def sharpness(strength: float) -> float:
    """What ``mixture`` multiplies the logits by: 3.7 at strength 0, 148 at strength 1."""
    return (1 + strength) / _softness(strength)


def sample(
    logits_nMV: Tensor,
    plans: Sequence[ScalePlan],
    seeds: Sequence[int],
    scale: int,
    tokens: int,
    index_nr: Tensor | None = None,
    noise: Uniforms = uniforms,
) -> Tensor:
    """Codes of n images at one scale.

    Args:
        logits_nMV: (n, M, V) for vector-quantised codes, (n, M, d, 2) for d bits per token; already guided and divided
            by the temperature.
        plans: the scale plan of each image; smoothed in all of them or in none.
        seeds: the seed of each image.
        scale: index of the scale, part of the noise key.
        tokens: positions M of the whole scale.
        index_nr: the positions that the logits (n, r, ...) belong to, None for all.
        noise: where the random numbers come from.

    Returns:
        int64 (n, M) or (n, M, d); smoothed, weights over the codes (n, M, V) instead.
    """
    codes = []
    for i, (logits, plan, seed) in enumerate(zip(logits_nMV, plans, seeds, strict=True)):
        if plan.temperature == 0 or plan.top_k == 1:
            best = logits.argmax(-1)
            codes.append(best if plan.smooth is None else F.one_hot(best, logits.shape[-1]).to(logits.dtype))
            continue
        each = logits.shape[1:-1] if plan.smooth is None else logits.shape[1:]
        uniform = noise(seed, scale, (tokens, *each)).to(logits.device)
        if index_nr is not None:
            uniform = uniform[index_nr[i]]
        kept = keep_top_p(keep_top_k(logits, plan.top_k), plan.top_p)
        codes.append(draw(kept, uniform) if plan.smooth is None else mixture(kept, plan.smooth, uniform))
    return torch.stack(codes)
