"""Names of published checkpoints of the families on the vector-quantising tokenizer: what they have in common.

A merged state carries one prefix for the tensors of the transformer, another for those of the tokenizer.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

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


_CONVOLUTION = re.compile(r"^quantize\.quant_resi\.(?:qresi_ls\.)?(\d+)\.")


_SINGLE = "quantize.quant_resi.qresi."


_COUNTER = "quantize.ema_vocab_hit_SV"


def vq_name(key: str, encoder: bool) -> str | None:
    """Our name of a tensor of a published tokenizer, None for one that is not needed.

    Args:
        key: as in the tokenizer's own file.
        encoder: whether the tokenizer has its encoder.
    """
    if key == _COUNTER or (not encoder and key.startswith(("encoder.", "quant_conv."))):
        return None
    if key.startswith(_SINGLE):
        return "convolutions.0." + key.removeprefix(_SINGLE)
    if key == "quantize.embedding.weight":
        return "codebook.weight"
    return _CONVOLUTION.sub(r"convolutions.\1.", key)


def vq_layout(name: str, tensor: Tensor) -> Tensor:
    """The tensor as ``name`` (ours) has it: the decoder's convolutions in channels-last."""
    decoding = name.startswith(("decoder.", "post_quant_conv.")) and tensor.dim() == 4
    return tensor.contiguous(memory_format=torch.channels_last) if decoding else tensor
