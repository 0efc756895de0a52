"""The state of torch in which a model computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_default() -> Iterator[None]:
    """New tensors are float32, whatever default dtype the process has set."""
    before = torch.get_default_dtype()
    if before == torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def computing() -> Iterator[None]:
    """No gradients, and float32 as default dtype."""
    with torch.inference_mode(), float32_default():
        yield
