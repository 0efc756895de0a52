"""The T5 text encoder of text-to-image families."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from stagevar.errors import ForeignCheckpointError, MissingExtraError, MissingFileError, PromptError
from stagevar.loop.contract import Text
from stagevar.models.weights import errors_only

CACHED_PROMPTS = 64
PADDED_WORDS = 128
"""T5 rounds its vocabulary up to a multiple of this."""


class T5Encoder:
    """Prompts to the states of a T5 encoder.

    Each prompt is encoded by itself, without padding, so that its states do not depend on the batch it is in; the
    most recent ones are kept.

    Attributes:
        device: where the encoder computes; the states are returned on the CPU.
        offload: whether its weights wait on the CPU between calls.
        max_length: tokens that it reads at most, the end-of-sequence token included.
    """

    def __init__(self, model: Any, tokenizer: Any, *, offload: bool = False, max_length: int = 512) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.device: torch.device = model.device
        self.offload, self.max_length = offload, max_length
        self._states = lru_cache(CACHED_PROMPTS)(self._encode)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "google/flan-t5-xl",
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        offload: bool = False,
        max_length: int = 512,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Load encoder and tokenizer from a folder or a hub repository in the layout of transformers.

        Raises:
            MissingExtraError: transformers is not installed.
            MissingFileError: the files are neither on disk nor reachable.
            ForeignCheckpointError: the files are not those of a T5 encoder.
        """
        try:
            from transformers import AutoTokenizer, T5EncoderModel
        except ImportError:
            raise MissingExtraError("transformers", "text") from None
        options: dict[str, Any] = {
            "revision": revision or "main",
            "local_files_only": local_files_only,
            "token": token,
        }
        load: Any = T5EncoderModel.from_pretrained
        try:
            with errors_only("huggingface_hub", "transformers"), no_bars():
                model, info = load(source, dtype=dtype, output_loading_info=True, **options)
                tokenizer = AutoTokenizer.from_pretrained(source, **options)
        except OSError as error:
            raise MissingFileError(f"text encoder {source}: {_sentence(error)}") from error
        except Exception as error:  # whatever a broken file makes transformers raise
            raise ForeignCheckpointError(
                f"text encoder {source} is no T5 encoder ({type(error).__name__}: {_sentence(error)})"
            ) from error
        if missing := sorted(info["missing_keys"]):
            raise ForeignCheckpointError(
                f"text encoder {source}: {len(missing)} tensors missing, such as {missing[0]}; is it a T5 encoder?"
            )
        # Without its files transformers makes up a tokenizer that knows no word, so the sizes have to agree.
        if not 0 <= model.config.vocab_size - len(tokenizer) < PADDED_WORDS:
            raise MissingFileError(
                f"text encoder {source}: the tokenizer has {len(tokenizer)} entries, the encoder "
                f"{model.config.vocab_size}; is tokenizer.json or spiece.model missing?"
            )
        model.requires_grad_(False).eval()
        return cls(model, tokenizer, offload=offload, max_length=max_length).to(device)

    def to(self, device: str | torch.device) -> Self:
        """Compute on ``device`` from now on."""
        self.device = torch.device(device)
        if not self.offload:
            self.model.to(self.device)
        return self

    def __call__(self, prompts: Sequence[str]) -> Text:
        """The states of each prompt: (T, C) float32 rows of its tokens and the end-of-sequence token, no padding.

        Raises:
            PromptError: a prompt is too long.
        """
        ids = [self._tokens(prompt) for prompt in prompts]
        if self.offload:
            self.model.to(self.device)
        try:
            return Text(tuple(self._states(row) for row in ids))
        finally:
            if self.offload:
                self.model.to("cpu")

    def _tokens(self, prompt: str) -> tuple[int, ...]:
        ids = self.tokenizer(prompt, verbose=False)["input_ids"]
        if len(ids) > self.max_length:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, the text encoder reads at most {self.max_length}; "
                f"shorten it: {prompt[:40]!r}..."
            )
        return tuple(ids)

    @torch.inference_mode()
    def _encode(self, ids: tuple[int, ...]) -> Tensor:
        states: Tensor = self.model(input_ids=torch.tensor([ids], device=self.device)).last_hidden_state
        return states[0].float().cpu()


@contextmanager
def no_bars() -> Iterator[None]:
    """Without the progress bars of transformers."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _sentence(error: BaseException) -> str:
    """The first line of a message, which may run to a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
