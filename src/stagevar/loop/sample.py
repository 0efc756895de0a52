"""Draw the codes of one scale, with noise that is a function of (seed, scale, position) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stagevar.loop.plan import ScalePlan


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


def sample(
    logits_nMV: Tensor,
    plans: Sequence[ScalePlan],
    seeds: Sequence[int],
    scale: int,
    tokens: int,
    index_nr: Tensor | None = None,
) -> Tensor:
    """Codes of n images at one scale.

    Args:
        logits_nMV: (n, M, V) for vector-quantised codes, (n, M, d, 2) for d bits per token; already guided and divided
            by the temperature.
        plans: the scale plan of each image.
        seeds: the seed of each image.
        scale: index of the scale, part of the noise key.
        tokens: positions M of the whole scale.
        index_nr: the positions that the logits (n, r, ...) belong to, None for all.

    Returns:
        int64 (n, M) or (n, M, d).
    """
    codes = []
    for i, (logits, plan, seed) in enumerate(zip(logits_nMV, plans, seeds, strict=True)):
        if plan.temperature == 0 or plan.top_k == 1:
            codes.append(logits.argmax(-1))
            continue
        noise = uniforms(seed, scale, (tokens, *logits.shape[1:-1])).to(logits.device)
        if index_nr is not None:
            noise = noise[index_nr[i]]
        codes.append(draw(keep_top_p(keep_top_k(logits, plan.top_k), plan.top_p), noise))
    return torch.stack(codes)
