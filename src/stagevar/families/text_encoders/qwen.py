"""The Qwen2 language model as text encoder of HART (mit-han-lab/hart ``utils/tools.py`` and ``utils/constants.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stagevar.engine.contract.text import Text
from stagevar.families.text_encoders.encoder import TextEncoder

INSTRUCTION = """\
Given a user prompt, generate an "Enhanced prompt" that provides detailed visual descriptions suitable for image \
generation.

Examples:
- User Prompt: A cat sleeping -> A small, fluffy white cat curled up in a round shape, sleeping peacefully on a warm \
sunny windowsill, surrounded by pots of blooming red flowers.
- User Prompt: A busy city street -> A bustling city street scene at dusk, featuring glowing street lamps, a diverse \
crowd of people in colorful clothing, and a double-decker bus passing by towering glass skyscrapers.

Please generate only the enhanced description for the prompt below and DO NOT include any additional sentences. \
Start your response with "Enhanced Prompt:".

User Prompt:
"""
"""The instruction that precedes every prompt. HART was trained with these words, and other words give other states."""


class QwenEncoder(TextEncoder):
    """A causal language model that reads an instruction, then the prompt, padded to a fixed number of tokens.

    It returns the last layer's states of the prompt and of its padding, without those of the instruction. Masks tell
    prompt and padding apart.
    """

    kind = "Qwen2 text model"
    spare_words = 512  # Qwen2 rounds its vocabulary up

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        offload: bool = False,
        max_length: int = 300,
        instruction: str = INSTRUCTION,
    ) -> None:
        super().__init__(model, tokenizer, offload=offload, max_length=max_length)
        self.prefix: list[int] = tokenizer(instruction)["input_ids"]

    @staticmethod
    def _classes() -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        return AutoModel, AutoTokenizer

    def __call__(self, prompts: Sequence[str]) -> Text:
        """The states of each prompt, (``max_length``, C) float32, and masks that are False at padding.

        Raises:
            PromptError: a prompt is too long.
        """
        masks = tuple(torch.tensor(self._tokens(prompt)) != self.tokenizer.pad_token_id for prompt in prompts)
        return replace(super().__call__(prompts), masks=masks)

    def _tokens(self, prompt: str) -> tuple[int, ...]:
        ids = self.tokenizer(prompt, padding="max_length", max_length=self.max_length, verbose=False)["input_ids"]
        return self._within_limit(ids, prompt)

    @torch.inference_mode()
    def _encode(self, ids: tuple[int, ...]) -> tuple[Tensor, None]:
        row = torch.tensor([[*self.prefix, *ids]], device=self.device)
        mask = row != self.tokenizer.pad_token_id
        mask[:, : len(self.prefix)] = True
        states: Tensor = self.model(input_ids=row, attention_mask=mask.long()).last_hidden_state
        return states[0, len(self.prefix) :].float().cpu(), None
