"""The state of torch in which a model computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def usual() -> Iterator[None]:
    """New tensors are float32 and on the CPU, and operations compute in the dtype of what they are given, whatever
    default dtype, default device and autocast the caller has set."""
    with ExitStack() as stack:
        before = torch.get_default_dtype()
        if before != torch.float32:
            stack.callback(torch.set_default_dtype, before)
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch._C.DisableTorchFunction())  # a default device is a mode of these
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def computing() -> Iterator[None]:
    """No gradients, and the usual state of torch."""
    with torch.inference_mode(), usual():
        yield
