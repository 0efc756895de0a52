"""The base class of text encoders that are loaded with transformers."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from stagevar.engine.contract.text import Text
from stagevar.errors import (
    CheckpointError,
    ForeignCheckpointError,
    MissingExtraError,
    MissingFileError,
    PromptError,
    first_line,
)
from stagevar.families.text_encoders.pretrained import load_network, load_words
from stagevar.quiet import errors_only, no_bars

CACHED_PROMPTS = 64


class TextEncoder(ABC):
    """Maps prompts to the states of a pretrained encoder.

    Each prompt is encoded by itself, so its states do not depend on the other prompts of a batch. The states of the
    most recent prompts are kept.

    Attributes:
        device: device on which the encoder computes; the states are returned on the CPU.
        offload: whether the encoder's weights are on the CPU between calls.
        max_length: most tokens of a prompt that the encoder reads; special tokens count.
    """

    kind: ClassVar[str]
    """Name of the kind of encoder, for error messages."""
    spare_words: ClassVar[int] = 0
    """Rows that the table of embeddings may have beyond the tokenizer's entries."""
    folders: tuple[str, str] = ("", "")
    """Folders of encoder and tokenizer inside the folder or repository that they were loaded from."""

    def __init__(self, model: Any, tokenizer: Any, *, offload: bool = False, max_length: int = 512) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.device: torch.device = model.device
        self.offload, self.max_length = offload, max_length
        self._begin()

    def _begin(self) -> None:
        """Make what is neither copied nor pickled: the cache of states, and the lock that runs calls one by one."""
        self._states = lru_cache(CACHED_PROMPTS)(self._encode)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_states", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    @staticmethod
    @abstractmethod
    def _classes() -> tuple[Any, Any]:
        """The classes of transformers for model and tokenizer."""

    @abstractmethod
    def _tokens(self, prompt: str) -> tuple[int, ...]:
        """The token ids of a prompt, at most ``max_length``."""

    def _within_limit(self, ids: Sequence[int], prompt: str) -> tuple[int, ...]:
        """The tokens unchanged.

        Raises:
            PromptError: the prompt has more tokens than the encoder reads.
        """
        if len(ids) > self.max_length:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, the text encoder reads at most {self.max_length}; "
                f"shorten it: {prompt[:40]!r}..."
            )
        return tuple(ids)

    @abstractmethod
    def _encode(self, ids: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """States (T, C) and the summary vector (C), or None if the encoder has no summary, in float32 on the CPU."""

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        subfolder: str = "",
        tokenizer_subfolder: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        offload: bool = False,
        max_length: int | None = None,
    ) -> Self:
        """Load encoder and tokenizer from a folder in the layout of transformers.

        Args:
            folder: folder that holds both.
            subfolder: folder of the encoder inside ``folder``.
            tokenizer_subfolder: folder of the tokenizer inside ``folder``; None means ``subfolder``.
            dtype, device: dtype and device of the encoder.
            offload: whether the encoder's weights are kept on the CPU between calls.
            max_length: most tokens of a prompt to read; None means the encoder's own limit.

        Raises:
            MissingExtraError: transformers is not installed.
            MissingFileError: files are missing.
            ForeignCheckpointError: the files hold no encoder of this kind.
        """
        try:
            network, words = cls._classes()
        except ImportError:
            raise MissingExtraError("transformers", "text") from None
        folders = subfolder, subfolder if tokenizer_subfolder is None else tokenizer_subfolder
        what = f"text encoder {Path(folder, subfolder)}"
        try:
            model = load_network(network, Path(folder, folders[0]), dtype=dtype)
            tokenizer = load_words(words, Path(folder, folders[1]))
        except MissingFileError as error:
            raise MissingFileError(f"{what}: {error}") from None
        except CheckpointError as error:
            raise type(error)(f"{what}: {error}; is it a {cls.kind}?") from None
        except OSError as error:
            raise MissingFileError(f"{what}: {first_line(error)}") from error
        except Exception as error:  # whatever a broken file makes transformers raise
            why = f"{type(error).__name__}: {first_line(error)}"
            raise ForeignCheckpointError(f"{what} is no {cls.kind} ({why})") from error
        # If the tokenizer's files are missing, transformers raises no error but builds a tokenizer without words. The
        # sizes of vocabulary and embedding table reveal it.
        entries = model.get_input_embeddings().num_embeddings
        if not 0 <= entries - len(tokenizer) <= cls.spare_words:
            raise MissingFileError(
                f"{what}: the tokenizer has {len(tokenizer)} entries, the encoder {entries}; "
                "are the tokenizer's files missing (tokenizer.json, vocab.json and merges.txt, or spiece.model)?"
            )
        length = {} if max_length is None else {"max_length": max_length}
        encoder = cls(model, tokenizer, offload=offload, **length).to(device)
        encoder.folders = folders
        return encoder

    @property
    def encoders(self) -> tuple[TextEncoder, ...]:
        """This encoder alone; other classes with this property hold several encoders."""
        return (self,)

    def save(self, folder: Path) -> None:
        """Write encoder and tokenizer to a new folder for ``from_pretrained``. The weights keep their dtype."""
        with errors_only("transformers"), no_bars():
            self.model.save_pretrained(folder / self.folders[0])
            self.tokenizer.save_pretrained(folder / self.folders[1])

    def to(self, device: str | torch.device) -> Self:
        """Compute on ``device`` from now on."""
        self.device = torch.device(device)
        if not self.offload:
            self.model.to(self.device)
        return self

    def __call__(self, prompts: Sequence[str]) -> Text:
        """The states of each prompt, (T, C) float32: one row per token, with special tokens and without padding.

        Raises:
            PromptError: the encoder cannot read a prompt.
        """
        with self._lock:
            ids = [self._tokens(prompt) for prompt in prompts]
            if self.offload:
                self.model.to(self.device)
            try:
                states, pooled = zip(*(self._states(row) for row in ids), strict=True)
            finally:
                if self.offload:
                    self.model.to("cpu")
        return Text(states, None if pooled[0] is None else torch.stack(pooled))
