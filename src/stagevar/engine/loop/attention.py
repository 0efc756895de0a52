"""The back ends of attention on CUDA, of which a probe finds the fastest."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stagevar.engine.contract.model import ScaleModel

BACKENDS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)

ROWS, KEYS, REPEATS = 1024, 4096, 5
"""Shape of the probe: new rows over the keys of a late scale."""

TOLERANCE = 2e-2
"""Largest difference from float32 of a back end that is taken; values are normal numbers, and so are scores."""


@contextmanager
def fastest_attention(model: ScaleModel) -> Iterator[None]:
    """Attention on CUDA takes the fastest back end that can do what is asked; elsewhere PyTorch chooses."""
    if model.device.type != "cuda":
        yield
        return
    heads, channels = model.config.heads, model.config.width // model.config.heads
    order = [*fastest_first(model.device, model.dtype, heads, channels), SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        yield


@cache
def fastest_first(
    device: torch.device, dtype: torch.dtype, heads: int, channels: int, keys: int = KEYS
) -> tuple[SDPBackend, ...]:
    """The back ends that compute attention right, sorted by the time that they take."""
    generator = torch.Generator().manual_seed(0)
    lengths = max(keys // (KEYS // ROWS), 1), keys, keys
    q, k, v = (torch.randn(2, heads, n, channels, generator=generator).to(device) for n in lengths)
    with sdpa_kernel(SDPBackend.MATH):
        exact = F.scaled_dot_product_attention(q, k, v)
    given = q.to(dtype), k.to(dtype), v.to(dtype)
    times: dict[SDPBackend, float] = {}
    for backend in BACKENDS:
        with warnings.catch_warnings(), sdpa_kernel(backend):
            warnings.simplefilter("ignore")  # PyTorch says why it cannot
            try:
                found = F.scaled_dot_product_attention(*given)
            except RuntimeError:
                continue
            if torch.allclose(found.float(), exact, atol=TOLERANCE, rtol=0):
                times[backend] = _seconds(lambda: F.scaled_dot_product_attention(*given), device)
    return tuple(sorted(times, key=times.__getitem__))


def _seconds(action: Callable[[], Tensor], device: torch.device) -> float:
    """The least time of some calls."""
    least = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        least = min(least, time.perf_counter() - began)
    return least
