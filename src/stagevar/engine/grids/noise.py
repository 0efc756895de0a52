"""Random numbers keyed by seed, scale and position, so that an image has the same noise in every batch and plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stagevar.engine.grids.sent import sent

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
        row = sent(torch.from_numpy(stream.standard_normal((tokens, channels), dtype=np.float32)), device)
        rows.append(row if index_nr is None else row[index_nr[i]])
    return torch.stack(rows)
