"""Map the names and shapes of published VAR checkpoints to those of ``stagevar.families.var.network``.

A published model is two files, the transformer and the tokenizer. In the merged state dict their tensors have the
prefixes ``var.`` and ``vae.``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from stagevar.families.family import renamed
from stagevar.families.vq_names import VQNames

NETWORK = "var."

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


class CheckpointNames(VQNames):
    """``VQNames`` for VAR."""

    network = NETWORK

    def rename_network(self, key: str) -> str | None:
        if _CONSTANT.search(key):
            return None
        if not (block := _IN_BLOCK.fullmatch(key)):
            return renamed(key, _TOP)
        if block[2] == "ada_gss":
            return f"modulation.tables.{block[1]}"
        return f"blocks.{block[1]}.{renamed(block[2], _BLOCK)}"

    def reshape_network(self, name: str, tensor: Tensor) -> Tensor:
        layout = _SHAPES.get(_NUMBER.sub("", name))
        return tensor if layout is None else layout(tensor)
