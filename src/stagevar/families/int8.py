"""Weights of linear layers in eight bits: a byte per weight and one scale per output channel.

Rounding is symmetric: the largest weight of a channel becomes 127 or -127, and zero stays zero. Only weights are
rounded; a layer turns them back into the compute dtype at every call. ``torch._weight_int8pack_mm`` multiplies bytes
without that, but from 16 rows on it is several times slower on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.errors import OptionError
from stagevar.families.linear import Linear

ROWS = 128
"""Rows that are rounded at once: their numbers in float32 fit a cache."""


class Int8Linear(Linear):
    """A linear layer that holds its weight as ``codes * scales``.

    ``weight`` has the right shape, dtype and device, but all its numbers are NaN.

    Args:
        layer: whose weight is rounded, in any dtype of real numbers.
        dtype: of the computation.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        weight = layer.weight.detach()
        self.register_buffer("codes", weight.new_empty(weight.shape, dtype=torch.int8))
        self.register_buffer("scales", weight.new_empty(len(weight), 1, dtype=dtype))
        self.codes: Tensor
        self.scales: Tensor
        for first in range(0, len(weight), ROWS):
            at = slice(first, first + ROWS)
            rows = weight[at].float()
            self.scales[at] = (rows.abs().amax(1, keepdim=True) / 127).clamp_min_(torch.finfo(dtype).tiny)
            self.codes[at] = (rows / self.scales[at].float()).round_().clamp_(-127, 127)
        self._blank()
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)

    def forward(self, x: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        out = F.linear(x, self.codes.to(x.dtype).mul_(self.scales), self.bias if bias is None else bias)
        return F.gelu(out, approximate="tanh") if gelu else out

    def pack(self) -> None:
        """Nothing: kernels of the CPU lay out no bytes."""

    def _blank(self) -> None:
        nan = self.scales.new_full((), torch.nan)
        self.weight = nn.Parameter(nan.expand(self.out_features, self.in_features), requires_grad=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        del self.weight
        super()._apply(fn, recurse)
        self._blank()
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise OptionError("a model with int8 weights is not saved; save it without quantize, and load it with it")


def linears(model: nn.Module, chosen: Callable[[str], bool]) -> dict[str, nn.Linear]:
    """The linear layers, by name, whose weights' names are chosen."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    return {name: layer for name, layer in layers.items() if chosen(f"{name}.weight")}


def quantize(
    model: nn.Module, chosen: Callable[[str], bool], dtype: torch.dtype, done: Callable[[Tensor], None] | None = None
) -> None:
    """Round the weights of linear layers to int8, one layer after the other.

    Args:
        model: whose layers are replaced.
        chosen: whether a weight of this name is rounded.
        dtype: of the computation.
        done: told each float weight that is no longer needed.
    """
    for name, layer in linears(model, chosen).items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Int8Linear(layer, dtype))
        if done is not None:
            done(layer.weight)
