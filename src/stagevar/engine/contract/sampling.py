"""From logits to codes of one token: filters, the draw, and the smoothed mixture."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def keep_likely(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Set all but the likeliest entries of the last axis to -inf.

    Args:
        logits: (..., V).
        top_k: how many stay; 0 or V and more keep all.
        top_p: of these, the least likely ones go that hold at most ``1 - top_p`` of the mass; the likeliest stays.

    Returns:
        (..., V). Entries that are tied with the last one that stays survive too.
    """
    whole = not 0 < top_k < logits.shape[-1]
    if whole and top_p >= 1:
        return logits
    ascending = _largest(logits.float(), logits.shape[-1] if whole else top_k)
    least = ascending[..., :1]
    if top_p < 1:
        mass = ascending.softmax(-1).cumsum(-1)
        least = ascending.gather(-1, _first_above(mass, torch.full_like(least, 1 - top_p)))
    return logits.masked_fill(logits < least, -torch.inf)


def _largest(logits: Tensor, count: int) -> Tensor:
    """The ``count`` largest entries of the last axis, ascending. NumPy does it ten times as fast on the CPU as
    PyTorch."""
    if logits.device.type != "cpu" or type(logits) is not Tensor:
        return logits.topk(count, dim=-1).values.flip(-1)
    rest = logits.shape[-1] - count
    numbers = logits.numpy()
    return torch.from_numpy(np.sort(np.partition(numbers, rest)[..., rest:] if rest else numbers))


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution: the first code whose cumulative mass exceeds ``uniform``.

    Args:
        logits: (..., V), -inf allowed.
        uniform: (...), in [0, 1).

    Returns:
        int64 (...), never a code of probability 0.
    """
    cumulative = logits.float().softmax(-1).cumsum(-1)
    return _first_above(cumulative, uniform[..., None] * cumulative[..., -1:]).squeeze(-1)


def _first_above(cumulative: Tensor, mass: Tensor) -> Tensor:
    """The first entry of an ascending axis (..., V) that exceeds ``mass`` (..., 1), the last one if none does: int64
    (..., 1). A search, since counting the entries up to it would turn all of them into eight bytes each."""
    return torch.searchsorted(cumulative, mass, right=True).clamp_(max=cumulative.shape[-1] - 1)


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
