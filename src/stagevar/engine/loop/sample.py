"""Draw the codes of one scale, with noise that is a function of (seed, scale, position) alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.contract.sampling import draw, gumbel_mixture, keep_top_k, keep_top_p


def sample(logits_nMV: Tensor, drawing: Drawing) -> Tensor:
    """Codes of n images at one scale.

    Args:
        logits_nMV: (n, M, V) for vector-quantised codes, (n, M, d, 2) for d bits per token; already guided and divided
            by the temperature. Of reduced rows (n, r, ...), at the positions of ``drawing.index``.
        drawing: settings and random numbers.

    Returns:
        int64 (n, M) or (n, M, d); smoothed, weights over the codes (n, M, V) instead.
    """
    codes = []
    for image, (logits, settings) in enumerate(zip(logits_nMV, drawing.settings, strict=True)):
        if settings.temperature == 0 or settings.top_k == 1:
            best = logits.argmax(-1)
            codes.append(best if settings.smooth is None else F.one_hot(best, logits.shape[-1]).to(logits.dtype))
            continue
        each = logits.shape[1:-1] if settings.smooth is None else logits.shape[1:]
        uniform = drawing.uniforms(image, each, logits.device)
        kept = keep_top_p(keep_top_k(logits, settings.top_k), settings.top_p)
        codes.append(draw(kept, uniform) if settings.smooth is None else gumbel_mixture(kept, settings.smooth, uniform))
    return torch.stack(codes)
