"""Linear layers whose weights are laid out once for the matrix kernels of the CPU.

Without this, oneDNN lays out a bfloat16 weight anew at every call, and MKL a float32 one. With it, the few rows of a
small scale take half the time. A row's float32 result then also depends no longer on how many rows share the call, as
it does in MKL, with one exception: a single row.
"""

from __future__ import annotations

from threading import Lock
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.families.pages import page_out

_LOCK = Lock()


class Packed(nn.Module):
    """A module that may make of its weights, once, what its calls need. What moves, casts or loads it undoes that."""

    def pack(self) -> None:
        """Make it, if the weights are not being trained."""
        raise NotImplementedError

    def unpack(self) -> None:
        """Undo it."""
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.unpack()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self.unpack()
        super()._load_from_state_dict(*args, **options)


class Linear(Packed, nn.Linear):
    """A linear layer that ``pack`` may lay out; until then it is that of PyTorch.

    A packed layer holds its weight once, in the kernels' layout. ``weight`` then has the right shape, dtype and device,
    but all its numbers are NaN. Whatever moves, casts, copies or saves the layer gets the weight back first.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """(..., inputs) to (..., outputs).

        Args:
            x: in the dtype of the weight.
            bias: in place of the layer's own.
            gelu: whether a GELU with the tanh approximation follows.
        """
        bias = self.bias if bias is None else bias
        if self._packed is None:
            out = F.linear(x, self.weight, bias)
            return F.gelu(out, approximate="tanh") if gelu else out
        name, algorithm = ("gelu", "tanh") if gelu else ("none", "")
        out = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, name, [], algorithm)
        return cast(Tensor, out)

    def pack(self) -> None:
        """Lay out the weight, if the CPU has kernels for its dtype."""
        if self._packed is None and packable(self.weight):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), None)
            page_out(self.weight)
            self.weight.data = self.weight.new_full((), torch.nan).expand_as(self.weight)

    def unpack(self) -> None:
        """Take the weight back."""
        if self._packed is not None:
            self.weight.data, self._packed = self._packed.to_dense(), None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        packed = self._packed
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if packed is not None:
            destination[prefix + "weight"] = packed.to_dense()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._packed is not None:
            weight = nn.Parameter(self._packed.to_dense(), requires_grad=False)
            state |= {"_packed": None, "_parameters": self._parameters | {"weight": weight}}
        return state


def packable(weight: Tensor) -> bool:
    """Whether a weight rests on a CPU that multiplies its dtype by laid-out weights, is not being trained and is whole,
    not the share of one device (``DTensor``)."""
    if (
        hasattr(weight, "placements")
        or weight.device.type != "cpu"
        or weight.requires_grad
        or not torch.backends.mkldnn.is_available()
    ):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def pack(model: nn.Module) -> None:
    """Pack all parts of a model that can be."""
    with _LOCK, torch.inference_mode(False), torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, Packed):
                layer.pack()


def unpack(model: nn.Module) -> None:
    """Give all parts of a model their weights back."""
    with _LOCK:
        for layer in model.modules():
            if isinstance(layer, Packed):
                layer.unpack()
