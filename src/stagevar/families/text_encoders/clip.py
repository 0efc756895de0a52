"""The CLIP text encoder of text-to-image families (Radford et al., arXiv 2103.00020)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from stagevar.engine.contract.text import Text
from stagevar.errors import ForeignCheckpointError
from stagevar.families.text_encoders.encoder import TextEncoder

log = logging.getLogger(__name__)


class ClipEncoder(TextEncoder):
    """CLIP's text encoder. It reads a start token, the prompt and an end token; the normalised state of the end token
    is the summary vector.

    The families that use CLIP pad prompts to 77 tokens and mask the padding. CLIP attends to earlier tokens only, so
    padding does not change the states of the real tokens. It is left out here.

    A longer prompt is cut to 77 tokens, and a warning quotes the part that is lost. Such prompts are not refused for
    two reasons: published results on benchmarks with long prompts were made with cut prompts, and a limit of 77 tokens
    would refuse too many prompts.

    The weights may be those of a text model, of a text model with projection, or of a whole CLIP. Other parts of the
    file are ignored.
    """

    kind = "CLIP text encoder"

    def __init__(self, model: Any, tokenizer: Any, *, offload: bool = False, max_length: int | None = None) -> None:
        limit = model.config.max_position_embeddings
        super().__init__(model, tokenizer, offload=offload, max_length=min(max_length or limit, limit))

    @staticmethod
    def _classes() -> tuple[Any, Any]:
        from transformers import CLIPTextModel, CLIPTokenizer

        return CLIPTextModel, CLIPTokenizer

    def _tokens(self, prompt: str) -> tuple[int, ...]:
        ids = tuple(self.tokenizer(prompt, verbose=False)["input_ids"])
        if len(ids) <= self.max_length:
            return ids
        *lost, end = ids[self.max_length - 1 :]
        log.warning(
            "the prompt has %d tokens, of which the text encoder reads %d; it ignores %r",
            len(ids),
            self.max_length,
            self.tokenizer.decode(lost),
        )
        return *ids[: self.max_length - 1], end

    @torch.inference_mode()
    def _encode(self, ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        output = self.model(input_ids=torch.tensor([ids], device=self.device))
        return output.last_hidden_state[0].float().cpu(), output.pooler_output[0].float().cpu()


class ClipPair:
    """Two CLIP text encoders that read every prompt. Their states are concatenated; the summary is the second encoder's
    (SDXL, Switti)."""

    def __init__(self, first: ClipEncoder, second: ClipEncoder) -> None:
        self.encoders = first, second

    @classmethod
    def from_pretrained(cls, folders: Sequence[str | Path], **options: Any) -> Self:
        """Load both encoders from their folders. Options and errors are those of ``ClipEncoder.from_pretrained``."""
        first, second = (ClipEncoder.from_pretrained(folder, **options) for folder in folders)
        return cls(first, second)

    def __call__(self, prompts: Sequence[str]) -> Text:
        """See ``TextEncoder.__call__``.

        Raises:
            ForeignCheckpointError: the encoders split a prompt into different numbers of tokens.
        """
        first, second = (encoder(prompts) for encoder in self.encoders)
        pairs = list(zip(first.features, second.features, strict=True))
        if any(len(a) != len(b) for a, b in pairs):
            raise ForeignCheckpointError(
                "the two text encoders count the tokens of a prompt differently; are both CLIP's?"
            )
        return Text(tuple(torch.cat(pair, -1) for pair in pairs), second.pooled)
