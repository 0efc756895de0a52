"""From the host to the device, without a wait of the host."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``. From pinned memory CUDA copies it while the host goes on."""
    pinned = host.pin_memory() if device.type == "cuda" else host
    return pinned.to(device, non_blocking=True)
