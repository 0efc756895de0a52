"""From the names and shapes of published VAR checkpoints to those of ``stagevar.models.var``.

A published model is two files, the transformer and the tokenizer; a merged state carries the prefixes ``var.`` and
``vae.``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from stagevar.models.vq import vq_layout, vq_name
from stagevar.models.weights import renamed

NETWORK, TOKENIZER = "var.", "vae."

_TOP = {
    "class_emb": "classes",
    "pos_start": "start",
    "pos_1LC": "positions",
    "lvl_embed": "level",
    "word_embed": "word",
    "shared_ada_lin.1": "modulation.shared",
    "head_nm.ada_lin.1": "head.modulation",
    "head": "head.proj",
}
_BLOCK = {
    "attn.mat_qkv": "attention.qkv",
    "attn.q_bias": "attention.q_bias",
    "attn.v_bias": "attention.v_bias",
    "attn.scale_mul_1H11": "attention.log_temperature",
    "attn.proj": "attention.proj",
    "ada_lin.1": "attention.modulation",
    "ffn.fc1": "feed_forward.up",
    "ffn.fc2": "feed_forward.down",
}
_CONSTANT = re.compile(r"(^|\.)(zero_k_bias|lvl_1L|attn_bias_for_masking)$")
_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_NUMBER = re.compile(r"^blocks\.\d+\.|\.\d+$")

_SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "start": Tensor.flatten,
    "positions": lambda t: t.flatten(0, -2),
    "attention.log_temperature": Tensor.flatten,
    "modulation.tables": lambda t: t.flatten(0, -2),
}


@dataclass(frozen=True, slots=True)
class CheckpointNames:
    """Renames and reshapes the tensors of a merged state. Unknown names come back unchanged, as unexpected ones.

    Attributes:
        encoder: whether the model has the tokenizer's encoder; its tensors are ignored otherwise.
    """

    encoder: bool = False

    def rename(self, key: str) -> str | None:
        """Our name of a tensor, None for one that is not needed."""
        if key.startswith(TOKENIZER):
            name = vq_name(key.removeprefix(TOKENIZER), self.encoder)
            return None if name is None else f"tokenizer.{name}"
        key = key.removeprefix(NETWORK)
        if _CONSTANT.search(key):
            return None
        if not (block := _IN_BLOCK.fullmatch(key)):
            return renamed(key, _TOP)
        if block[2] == "ada_gss":
            return f"modulation.tables.{block[1]}"
        return f"blocks.{block[1]}.{renamed(block[2], _BLOCK)}"

    def reshape(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor as ``name`` (ours) has it: no broadcasting axes, the decoder's convolutions in channels-last."""
        if name.startswith("tokenizer."):
            return vq_layout(name.removeprefix("tokenizer."), tensor)
        layout = _SHAPES.get(_NUMBER.sub("", name))
        return tensor if layout is None else layout(tensor)
