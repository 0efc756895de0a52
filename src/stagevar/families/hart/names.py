"""Map the names of published HART checkpoints to those of ``stagevar.families.hart.network``.

A published model is a repository with two folders. One holds the transformer; its names get the prefix ``hart.`` here.
The other holds the tokenizer, whose names have the prefix ``vae.``, and the discriminator of the tokenizer's training.
"""

from __future__ import annotations

import re

from torch import Tensor

from stagevar.families.family import renamed
from stagevar.families.vq_names import TOKENIZER, VQNames

NETWORK = "hart."
DISCRIMINATOR = "disc."

_TOP = {
    "context_norm": "context.0",
    "context_embed": "context.1",
    "lvl_embed": "level",
    "word_embed": "word",
    "head_nm.ln_wo_grad": "head.norm",
    "head_nm.ada_lin.1": "head.modulation",
    "head": "head.proj",
    "decoder_norm": "residual_norm",
    "diffloss.net.time_embed.mlp": "residual_head.time",
    "diffloss.net.cond_embed": "residual_head.condition",
    "diffloss.net.input_proj": "residual_head.input",
    "diffloss.net.final_layer.linear": "residual_head.output",
    "diffloss.net.final_layer.adaLN_modulation.1": "residual_head.modulation",
}
_BLOCK = {
    "ln_wo_grad": "norm",
    "attn.qkv_proj": "attention.qkv",
    "attn.scale_mul_1H11": "attention.log_temperature",
    "attn": "attention",
    "ffn.gate_proj": "feed_forward.gate",
    "ffn.up_proj": "feed_forward.up",
    "ffn.down_proj": "feed_forward.down",
}
_RESIDUAL = {"in_ln": "norm", "mlp.0": "up", "mlp.2": "down", "adaLN_modulation.1": "modulation"}
_MODULATION = {"scale_shift_table": "tables", "ada_lin.1": "layers"}
_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_IN_RESIDUAL = re.compile(r"diffloss\.net\.res_blocks\.(\d+)\.(.+)")
_CONSTANT = re.compile(r"(^|\.)(zero_k_bias|lvl_1L|attn_bias_for_masking)$")
_UNUSED = (DISCRIMINATOR, f"{TOKENIZER}decoder2.", f"{TOKENIZER}post_quant_conv2.")
"""Prefixes of tensors that only the tokenizer's training needs."""


class CheckpointNames(VQNames):
    """``VQNames`` for HART."""

    network = NETWORK

    def rename(self, key: str) -> str | None:
        """Our name of a tensor; None if the model does not need it."""
        return None if key.startswith(_UNUSED) else super().rename(key)

    def rename_network(self, key: str) -> str | None:
        if _CONSTANT.search(key):
            return None
        if layer := _IN_RESIDUAL.fullmatch(key):
            return f"residual_head.layers.{layer[1]}.{renamed(layer[2], _RESIDUAL)}"
        if block := _IN_BLOCK.fullmatch(key):
            return self._block(block[1], block[2])
        return renamed(key, _TOP)

    def _block(self, number: str, key: str) -> str:
        for theirs, ours in _MODULATION.items():
            if key.startswith(theirs):
                return f"modulation.{ours}.{number}{key.removeprefix(theirs)}"
        return f"blocks.{number}.{renamed(key, _BLOCK)}"

    def reshape_network(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.flatten() if name.endswith(".log_temperature") else tensor
