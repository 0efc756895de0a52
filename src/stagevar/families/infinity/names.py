"""Map the names and shapes of published Infinity checkpoints to those of ``stagevar.families.infinity.network``.

A published model is two files, the transformer and the tokenizer. The same name may occur in both, so every name gets
the prefix of its file, ``infinity.`` or ``vae.``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stagevar.families.family import renamed

NETWORK, TOKENIZER = "infinity.", "vae."

_TOP = {
    "cfg_uncond": "null_text",
    "text_norm": "text_norm",
    "text_proj_for_sos.ca.mat_q": "pool.query",
    "text_proj_for_sos.ca.mat_kv": "pool.kv",
    "text_proj_for_sos.ca.v_bias": "pool.v_bias",
    "text_proj_for_sos.ca.proj": "pool.proj",
    "text_proj_for_ca": "context",
    "pos_start": "start",
    "lvl_embed": "level",
    "word_embed": "word",
    "shared_ada_lin.1": "modulation.shared",
    "head_nm.ada_lin.1": "head.modulation",
    "head": "head.proj",
}
_BLOCK = {
    "sa.mat_qkv": "attention.qkv",
    "sa.q_bias": "attention.q_bias",
    "sa.v_bias": "attention.v_bias",
    "sa.scale_mul_1H11": "attention.log_temperature",
    "sa.proj": "attention.proj",
    "ca_norm": "cross.norm",
    "ca.mat_q": "cross.q",
    "ca.mat_kv": "cross.kv",
    "ca.v_bias": "cross.v_bias",
    "ca.proj": "cross.proj",
    "ffn.fc1": "feed_forward.up",
    "ffn.fc2": "feed_forward.down",
}
_CONSTANT = re.compile(r"(^|\.)(zero_k_bias|lvl_1L|attn_bias_for_masking)$|^quantizer?\.")
_CHUNKED = re.compile(r"block_chunks\.(\d+)\.(?:module\.)?(\d+)\.(.+)")
_PLAIN = re.compile(r"blocks\.(\d+)\.(.+)")
_NUMBER = re.compile(r"^blocks\.\d+\.|\.\d+$")
_WRAPPED = re.compile(r"(^|\.)(conv\w*|norm\w*|nin_shortcut)\.(?:conv|norm)\.(weight|bias)$")

_SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "start": Tensor.flatten,
    "attention.log_temperature": Tensor.flatten,
    "pool.query": lambda t: t.flatten(0, -2),
    "modulation.tables": lambda t: t.flatten(0, -2),
}


@dataclass(frozen=True, slots=True)
class CheckpointNames:
    """Renames and reshapes the tensors of one model size. An unknown name is returned unchanged, and the loader reports
    its tensor as left over.

    Attributes:
        blocks_per_chunk: ``block_chunks.a.module.b`` is block ``a * blocks_per_chunk + b``.
        null_rows: rows of the learned null text to keep.
        halves: the halves of the tokenizer that the model has; tensors of a missing half are ignored.
    """

    blocks_per_chunk: int
    null_rows: int
    halves: tuple[str, ...] = ("encoder", "decoder")

    def rename(self, key: str) -> str | None:
        """Our name of a tensor; None if the model does not need it. ``key`` includes the prefix of its file."""
        if key.startswith(TOKENIZER):
            return self.rename_tokenizer(key.removeprefix(TOKENIZER))
        return self.rename_network(key.removeprefix(NETWORK))

    def rename_network(self, key: str) -> str | None:
        """Our name of a tensor in the transformer's file; None for constants such as ``zero_k_bias``."""
        if _CONSTANT.search(key):
            return None
        if chunked := _CHUNKED.fullmatch(key):
            chunk, block, rest = chunked.groups()
            return self._block(int(chunk) * self.blocks_per_chunk + int(block), rest)
        if plain := _PLAIN.fullmatch(key):
            return self._block(int(plain[1]), plain[2])
        return renamed(key, _TOP)

    def _block(self, block: int, key: str) -> str:
        return f"modulation.tables.{block}" if key == "ada_gss" else f"blocks.{block}.{renamed(key, _BLOCK)}"

    def rename_tokenizer(self, key: str) -> str | None:
        """Our name of a tensor in the tokenizer's file. Some files nest convolutions and norms one level deeper, in
        ``.conv`` or ``.norm``."""
        half = key.partition(".")[0]
        if _CONSTANT.search(key) or (half in ("encoder", "decoder") and half not in self.halves):
            return None
        return "tokenizer." + _WRAPPED.sub(r"\1\2.\3", key)

    def reshape(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor in the shape and layout of our parameter ``name``: without broadcasting axes, and in channels-last
        if it belongs to a convolution of the decoder."""
        if name == "null_text":
            return tensor[: self.null_rows]
        if name.startswith("tokenizer.decoder."):
            return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        layout = _SHAPES.get(_NUMBER.sub("", name))
        return tensor if layout is None else layout(tensor)
