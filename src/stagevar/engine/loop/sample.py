"""Draw the codes of one scale, with noise that is a function of (seed, scale, position) alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.contract.sampling import draw, gumbel_mixture, keep_likely


def sample(logits_nMV: Tensor, drawing: Drawing) -> Tensor:
    """Codes of n images at one scale.

    Args:
        logits_nMV: (n, M, V) for vector-quantised codes, (n, M, d, 2) for d bits per token; already guided and divided
            by the temperature. Of reduced rows (n, r, ...), at the positions of ``drawing.index``.
        drawing: settings and random numbers.

    Returns:
        int64 (n, M) or (n, M, d); smoothed, weights over the codes (n, M, V) instead.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for image, each in enumerate(drawing.settings):
        greedy = each.temperature == 0 or each.top_k == 1
        alike.setdefault((greedy, each.smooth) + ((0, 1.0) if greedy else (each.top_k, each.top_p)), []).append(image)
    n, codes = len(logits_nMV), dict[int, Tensor]()
    for key, images in alike.items():
        logits = logits_nMV if len(images) == n else torch.stack([logits_nMV[image] for image in images])
        drawn = _draw(logits, drawing, images, *key)
        if len(images) == n:
            return drawn
        codes |= zip(images, drawn, strict=True)
    return torch.stack([codes[image] for image in range(n)])


def _draw(
    logits: Tensor, drawing: Drawing, images: list[int], greedy: bool, smooth: float | None, top_k: int, top_p: float
) -> Tensor:
    """Codes of those images whose settings are the same."""
    if greedy:
        best = logits.argmax(-1)
        return best if smooth is None else F.one_hot(best, logits.shape[-1]).to(logits.dtype)
    each = logits.shape[2:-1] if smooth is None else logits.shape[2:]
    uniform = torch.stack([drawing.uniforms(image, each, logits.device) for image in images])
    kept = keep_likely(logits, top_k, top_p)
    return draw(kept, uniform) if smooth is None else gumbel_mixture(kept, smooth, uniform)
