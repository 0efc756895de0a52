"""What the tests of var share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stagevar.families.tiny import tiny
from stagevar.families.var import names as var_names
from stagevar.families.var.network import VAR


def tiny_var(seed: int = 0, **changes: Any) -> VAR:
    made = tiny("var", seed, **changes)
    assert isinstance(made, VAR)
    return made


def official(model: VAR, back_end: str = "plain") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of network and tokenizer as their authors name and shape them, constants included."""
    network, tokenizer = {}, {}
    block = {new: old for old, new in var_names._BLOCK.items()}
    top = {new: old for old, new in var_names._TOP.items()}
    width, heads = model.config.width, model.config.heads
    for name, tensor in model.state_dict().items():
        if name.startswith("tokenizer."):
            key = name.removeprefix("tokenizer.").replace("codebook", "quantize.embedding")
            tokenizer[key.replace("convolutions.", "quantize.quant_resi.qresi_ls.")] = tensor
        elif name.startswith("modulation.tables."):
            network[f"blocks.{name.rpartition('.')[2]}.ada_gss"] = tensor[None, None]
        elif name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            new = next(new for new in block if f"{rest}.".startswith(f"{new}."))
            if new == "attention.log_temperature":
                tensor = tensor.view((1, heads, 1, 1) if back_end == "plain" else (1, 1, heads, 1))
            network[f"blocks.{number}.{rest.replace(new, block[new], 1)}"] = tensor
        else:
            new = next(new for new in top if f"{name}.".startswith(f"{new}."))
            network[name.replace(new, top[new], 1)] = tensor[(None,) * {"start": 2, "positions": 1}.get(name, 0)]
    network |= {f"blocks.{i}.attn.zero_k_bias": torch.zeros(width) for i in range(model.depth)}
    network |= {"lvl_1L": torch.zeros(1, 9, dtype=torch.long), "attn_bias_for_masking": torch.zeros(1, 1, 9, 9)}
    tokenizer |= {"quantize.ema_vocab_hit_SV": torch.zeros(5, 64), "quant_conv.bias": torch.zeros(8)}
    return network, tokenizer
