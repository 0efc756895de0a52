"""The engine in float64, to tell how far rounding carries a chaotic tensor.

Some outputs enlarge rounding: smoothed sampling multiplies the logits by up to 148 and feeds what comes out to the next
scale. Two correct float32 implementations may differ there by much more than elsewhere. How much follows from the
engine's own error: its float32 result against the same run in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SPREAD = 32.0
"""Two float32 results may differ by so many times one's error against float64.

Both err, and the errors have heavy tails: the largest belongs to the token whose two likeliest codes lie nearest, and
changes with the order of summation. A wrong formula differs by whole units.
"""

_CASTS = (Tensor.to, Tensor.type)


class _Float64(TorchFunctionMode):
    """Wherever code asks for float32 it gets float64."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.float:
            return args[0].double() if args[0].is_floating_point() or not args[0].is_complex() else args[0]
        if func in _CASTS or "dtype" in kwargs:
            args = tuple(torch.float64 if each is torch.float32 else each for each in args)
            kwargs = {name: torch.float64 if each is torch.float32 else each for name, each in kwargs.items()}
        return func(*args, **kwargs)


@contextmanager
def in_float64() -> Iterator[None]:
    """All that is built and computed inside is float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64():
            yield
    finally:
        torch.set_default_dtype(before)
