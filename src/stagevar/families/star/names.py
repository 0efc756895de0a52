"""Map the names and shapes of published STAR checkpoints to those of ``stagevar.families.star.network``.

A published model is two files, the transformer and the tokenizer. In the merged state dict their tensors have the
prefixes ``var.`` and ``vae.``.
"""

from __future__ import annotations

import re

from torch import Tensor

from stagevar.families.family import renamed
from stagevar.families.vq_names import VQNames

NETWORK = "var."

_TOP = {
    "encoder_proj": "summary",
    "pos_start": "start",
    "lvl_embed": "level",
    "word_embed": "word",
    "head_logits": "head",
    "encoder_proj2": "second.summary",
    "pos_start_last": "second.start",
    "lvl_embed_2": "second.level",
    "word_embed_head": "second.word",
    "head_proj": "second.mix",
    "head_logits2": "second.head",
}
_BLOCK = {
    "attn.mat_qkv": "attention.qkv",
    "attn.q_bias": "attention.q_bias",
    "attn.v_bias": "attention.v_bias",
    "attn.scale_mul_1H11": "attention.log_temperature",
    "attn.proj": "attention.proj",
    "cross_attn.mat_q": "cross.q",
    "cross_attn.mat_kv": "cross.kv",
    "cross_attn.q_bias": "cross.q_bias",
    "cross_attn.v_bias": "cross.v_bias",
    "cross_attn.scale_mul_1H11": "cross.log_temperature",
    "cross_attn.proj": "cross.proj",
    "ffn.fc1": "feed_forward.up",
    "ffn.fc2": "feed_forward.down",
}
_UNUSED = re.compile(r"(^|\.)zero_k_bias$|^(class_emb\.weight|lvl_1L|attn_bias_for_masking|attn_mask)$")
_IN_BLOCK = re.compile(r"(feat_extract_)?blocks\.(\d+)\.(.+)")


class CheckpointNames(VQNames):
    """``VQNames`` for STAR."""

    network = NETWORK

    def rename_network(self, key: str) -> str | None:
        if _UNUSED.search(key):
            return None
        if block := _IN_BLOCK.fullmatch(key):
            stage, number, rest = block.groups()
            return f"{'second.' if stage else ''}blocks.{number}.{renamed(rest, _BLOCK)}"
        return renamed(key, _TOP)

    def reshape_network(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.flatten() if name.endswith((".log_temperature", "start")) else tensor
