"""Parts of a CLIP text encoder that takes milliseconds to build."""

from __future__ import annotations

from typing import Any

import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz"
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), START, END]


def build_tokenizer() -> Any:
    """Every letter is a token, and the last one of a word another."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, merges=[], model_max_length=77)


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "projection_dim": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": len(WORDS) - 2,
        "eos_token_id": len(WORDS) - 1,
        "pad_token_id": len(WORDS) - 1,
    } | changes


def randomized(model: Any) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model
