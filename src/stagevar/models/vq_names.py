"""Names of published checkpoints of the families on the vector-quantising tokenizer: what they have in common.

A merged state carries one prefix for the tensors of the transformer, another for those of the tokenizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stagevar.models.vq import vq_layout, vq_name

TOKENIZER = "vae."
"""Prefix of the tokenizer's tensors."""


@dataclass(frozen=True)
class VQNames(ABC):
    """Renames and reshapes the tensors of a merged state. Unknown names come back unchanged, as unexpected ones.

    Class attributes:
        network: prefix of the transformer's tensors.

    Attributes:
        encoder: whether the model has the tokenizer's encoder; its tensors are ignored otherwise.
    """

    network: ClassVar[str]
    encoder: bool = False

    def rename(self, key: str) -> str | None:
        """Our name of a tensor, None for one that is not needed."""
        if not key.startswith(TOKENIZER):
            return self.rename_network(key.removeprefix(self.network))
        name = vq_name(key.removeprefix(TOKENIZER), self.encoder)
        return None if name is None else f"tokenizer.{name}"

    @abstractmethod
    def rename_network(self, key: str) -> str | None:
        """``rename`` of the transformer's tensors, their prefix taken off."""

    def reshape(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor as ``name`` (ours) has it: no broadcasting axes, the decoder's convolutions in channels-last."""
        if name.startswith("tokenizer."):
            return vq_layout(name.removeprefix("tokenizer."), tensor)
        return self.reshape_network(name, tensor)

    @abstractmethod
    def reshape_network(self, name: str, tensor: Tensor) -> Tensor:
        """``reshape`` of the transformer's tensors."""
