"""T5, which reads prompts for Infinity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stagevar.families.text_encoders.encoder import TextEncoder


class T5Encoder(TextEncoder):
    """T5's encoder half. It reads the prompt's tokens and an end-of-sequence token, and it has no summary vector."""

    kind = "T5 encoder"
    spare_words = 127  # T5 rounds its vocabulary up to a multiple of 128

    @staticmethod
    def _classes() -> tuple[Any, Any]:
        from transformers import AutoTokenizer, T5EncoderModel

        return T5EncoderModel, AutoTokenizer

    def _tokens(self, prompt: str) -> tuple[int, ...]:
        ids = self.tokenizer(prompt, verbose=False)["input_ids"]
        return self._within_limit(ids, prompt)

    @torch.inference_mode()
    def _encode(self, ids: tuple[int, ...]) -> tuple[Tensor, None]:
        states: Tensor = self.model(input_ids=torch.tensor([ids], device=self.device)).last_hidden_state
        return states[0].float().cpu(), None
