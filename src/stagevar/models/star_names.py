"""From the names and shapes of published STAR checkpoints to those of ``stagevar.models.star``.

A published model is two files, transformer and tokenizer; a merged state carries the prefixes ``var.`` and ``vae.``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor

from stagevar.models.vq import vq_layout, vq_name
from stagevar.models.weights import renamed

NETWORK, TOKENIZER = "var.", "vae."

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


@dataclass(frozen=True, slots=True)
class CheckpointNames:
    """Renames and reshapes the tensors of a merged state. Unknown names come back unchanged, as unexpected ones."""

    def rename(self, key: str) -> str | None:
        """Our name of a tensor, None for one that is not needed."""
        if key.startswith(TOKENIZER):
            name = vq_name(key.removeprefix(TOKENIZER), encoder=False)
            return None if name is None else f"tokenizer.{name}"
        key = key.removeprefix(NETWORK)
        if _UNUSED.search(key):
            return None
        if block := _IN_BLOCK.fullmatch(key):
            stage, number, rest = block.groups()
            return f"{'second.' if stage else ''}blocks.{number}.{renamed(rest, _BLOCK)}"
        return renamed(key, _TOP)

    def reshape(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor as ``name`` (ours) has it: no broadcasting axes, the decoder's convolutions in channels-last."""
        if name.startswith("tokenizer."):
            return vq_layout(name.removeprefix("tokenizer."), tensor)
        return tensor.flatten() if name.endswith((".log_temperature", "start")) else tensor
