"""Inference engine for next-scale visual autoregressive image generators.

Names are imported on first use, so that ``import stagevar`` loads neither torch nor transformers.
Importing it before torch also settles how the threads of torch wait (``stagevar.threads``) and how many compiled matrix
kernels it keeps (``stagevar.kernels``).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stagevar import errors, kernels, threads

if TYPE_CHECKING:
    from stagevar.accelerators.base import Accelerator
    from stagevar.engine.loop.trace import ScaleRecord, Trace
    from stagevar.engine.plan.plan import Plan, ScalePlan
    from stagevar.pipeline import Pipeline
    from stagevar.request import EncodedPrompt, Request
    from stagevar.result import Result, ScaleEvent

__version__ = "0.1.0"

threads.settle()
kernels.settle()

__all__ = [
    "Accelerator",
    "EncodedPrompt",
    "Pipeline",
    "Plan",
    "Request",
    "Result",
    "ScaleEvent",
    "ScalePlan",
    "ScaleRecord",
    "Trace",
    "__version__",
    "errors",
]

_HOMES = {
    "Accelerator": "accelerators.base",
    "EncodedPrompt": "request",
    "Pipeline": "pipeline",
    "Plan": "engine.plan.plan",
    "Request": "request",
    "Result": "result",
    "ScaleEvent": "result",
    "ScalePlan": "engine.plan.plan",
    "ScaleRecord": "engine.loop.trace",
    "Trace": "engine.loop.trace",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stagevar' has no attribute {name!r}")
    value = getattr(import_module(f"stagevar.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
