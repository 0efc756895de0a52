"""From the host to the device and back, without a wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def sent(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``. From pinned memory CUDA copies it while the host goes on."""
    pinned = host.pin_memory() if device.type == "cuda" and host.device.type == "cpu" else host
    return pinned.to(device, non_blocking=True)


def per_image(values: Sequence[float], like: Tensor) -> Tensor:
    """One number of the host per image, shaped to multiply (n, ...)."""
    return sent(torch.tensor(values, dtype=like.dtype), like.device).view(-1, *[1] * (like.dim() - 1))


def fetched(work: Callable[[Tensor], Tensor], given: Tensor) -> Callable[[], Tensor]:
    """Start ``work`` on a tensor; a call of what is returned waits for the result and has it on the host. On CUDA work
    and copy have a stream of their own, so that what follows does not wait for them."""
    if not given.is_cuda:
        result = work(given)
        return lambda: result
    stream = torch.cuda.Stream(given.device)
    stream.wait_stream(torch.cuda.current_stream(given.device))
    given.record_stream(stream)
    with torch.cuda.stream(stream):
        result = work(given)
        host = torch.empty_like(result, device="cpu", pin_memory=True).copy_(result, non_blocking=True)
        done = stream.record_event()

    def wait() -> Tensor:
        done.synchronize()
        return host

    return wait
