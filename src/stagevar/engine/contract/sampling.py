"""From logits to codes of one token: filters, the draw, and the smoothed mixture."""

from __future__ import annotations

import torch
from torch import Tensor


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


def gumbel_mixture(logits: Tensor, strength: float, uniform: Tensor) -> Tensor:
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
