"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

import stagevar
from stagevar.engine.contract.model import ScaleModel


def machine(model: ScaleModel) -> dict[str, Any]:
    """Device, dtype, rounding of weights, threads and versions, as plain data for traces, studies and benchmarks."""
    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": str(device),
        "processor": name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantize": model.quantized or None,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "stagevar": stagevar.__version__,
        "python": platform.python_version(),
    }


def load() -> float | None:
    """Processes that wanted a processor over the last minute, for each one that there is; None where nobody counts."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return None
