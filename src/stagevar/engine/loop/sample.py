"""Draw the codes of one scale, with noise that is a function of (seed, scale, position) alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.contract.sampling import draw, keep_top_k, keep_top_p, mixture
from stagevar.engine.grids.noise import Uniforms, uniforms
from stagevar.engine.plan.plan import ScalePlan


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
