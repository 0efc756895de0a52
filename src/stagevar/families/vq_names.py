"""Names in published checkpoints: code that the families with the vector-quantising tokenizer share.

The merged state dict has one prefix for tensors of the transformer and another for tensors of the tokenizer.
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
    """Renames and reshapes the tensors of a merged state dict. An unknown name is returned unchanged, and the loader
    reports its tensor as left over.

    Class attributes:
        network: prefix of the transformer's tensors.

    Attributes:
        encoder: whether the model has the tokenizer's encoder. If not, the encoder's tensors are ignored.
    """

    network: ClassVar[str]
    encoder: bool = False

    def rename(self, key: str) -> str | None:
        """Our name of a tensor; None if the model does not need it."""
        if not key.startswith(TOKENIZER):
            return self.rename_network(key.removeprefix(self.network))
        name = vq_name(key.removeprefix(TOKENIZER), self.encoder)
        return None if name is None else f"tokenizer.{name}"

    @abstractmethod
    def rename_network(self, key: str) -> str | None:
        """``rename`` for tensors of the transformer; ``key`` comes without their prefix."""

    def reshape(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor in the shape and layout of our parameter ``name``: without broadcasting axes, and in channels-last
        if it belongs to a convolution of the decoder."""
        if name.startswith("tokenizer."):
            return vq_layout(name.removeprefix("tokenizer."), tensor)
        return self.reshape_network(name, tensor)

    @abstractmethod
    def reshape_network(self, name: str, tensor: Tensor) -> Tensor:
        """``reshape`` for tensors of the transformer."""


_CONVOLUTION = re.compile(r"^quantize\.quant_resi\.(?:qresi_ls\.)?(\d+)\.")


_SINGLE = "quantize.quant_resi.qresi."


_COUNTER = "quantize.ema_vocab_hit_SV"


def vq_name(key: str, encoder: bool) -> str | None:
    """Our name of a tensor of a published tokenizer; None if the model does not need it.

    Args:
        key: the tensor's name in the tokenizer's own file.
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
    """The tensor in the layout of our parameter ``name``: channels-last if it is a kernel of the decoder."""
    decoding = name.startswith(("decoder.", "post_quant_conv.")) and tensor.dim() == 4
    return tensor.contiguous(memory_format=torch.channels_last) if decoding else tensor
