"""Map the names and shapes of published Switti checkpoints to those of ``stagevar.families.switti.network``.

A published model is two repositories, the transformer's and the tokenizer's. In the merged state dict their tensors
have the prefixes ``switti.`` and ``vae.``.
"""

from __future__ import annotations

import re

from torch import Tensor

from stagevar.families.family import renamed
from stagevar.families.vq_names import VQNames

NETWORK = "switti."

_TOP = {
    "text_pooler": "pooled",
    "crop_embed.weight": "crop.frequencies",
    "crop_proj": "crop.proj",
    "pos_start": "start",
    "lvl_embed": "level",
    "word_embed": "word",
    "head_nm.ada_lin.1": "head.modulation",
    "head": "head.proj",
}
_BLOCK = {
    "ada_lin.1": "attention.modulation",
    "crop_cond_scales": "attention.crop_gain",
    "self_attention_norm1": "attention.norm",
    "self_attention_norm2": "attention.norm_out",
    "attn.to_qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "cross_attention_norm1": "cross.norm",
    "cross_attention_norm2": "cross.norm_out",
    "attention_y_norm": "cross.norm_text",
    "cross_attn.to_q": "cross.q",
    "cross_attn.to_kv": "cross.kv",
    "cross_attn.proj": "cross.proj",
    "ffn_norm1": "feed_forward.norm",
    "ffn_norm2": "feed_forward.norm_out",
    "ffn.up_proj": "feed_forward.up",
    "ffn.gate_proj": "feed_forward.gate",
    "ffn.down_proj": "feed_forward.down",
}
_CONSTANT = ("lvl_1L", "attn_bias_for_masking")
_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


class CheckpointNames(VQNames):
    """``VQNames`` for Switti."""

    network = NETWORK

    def rename_network(self, key: str) -> str | None:
        if key in _CONSTANT:
            return None
        if block := _IN_BLOCK.fullmatch(key):
            return f"blocks.{block[1]}.{renamed(block[2], _BLOCK)}"
        return renamed(key, _TOP)

    def reshape_network(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.flatten() if name == "start" or name.endswith(".crop_gain") else tensor
