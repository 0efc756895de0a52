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
    """CLIP's text half: start token, prompt, end token; the summary is the normalised state of the end token.

    Every family that uses CLIP pads prompts to 77 tokens and masks the padding. CLIP attends to earlier tokens only,
    so the states of the real tokens are the same without the padding, which is left out here.

    Longer prompts are cut to 77 tokens, with a warning that quotes what is lost: the published results on benchmarks
    with long prompts were made that way, and 77 tokens are too few to refuse everything else.

    Loads a text model alone, one with a projection, or a whole CLIP, whose other parts are ignored.
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
    """Two CLIPs read every prompt: their states side by side, and the second one's summary (SDXL, Switti)."""

    def __init__(self, first: ClipEncoder, second: ClipEncoder) -> None:
        self.encoders = first, second

    @classmethod
    def from_pretrained(cls, folders: Sequence[str | Path], **options: Any) -> Self:
        """Both from folders; options and errors as in ``ClipEncoder.from_pretrained``."""
        first, second = (ClipEncoder.from_pretrained(folder, **options) for folder in folders)
        return cls(first, second)

    def __call__(self, prompts: Sequence[str]) -> Text:
        """See ``TextEncoder.__call__``.

        Raises:
            ForeignCheckpointError: the encoders cut a prompt into different numbers of tokens.
        """
        first, second = (encoder(prompts) for encoder in self.encoders)
        pairs = list(zip(first.features, second.features, strict=True))
        if any(len(a) != len(b) for a, b in pairs):
            raise ForeignCheckpointError(
                "the two text encoders count the tokens of a prompt differently; are both CLIP's?"
            )
        return Text(tuple(torch.cat(pair, -1) for pair in pairs), second.pooled)
