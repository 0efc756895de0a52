"""Text encoders of transformers: what all of them share, and T5."""

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
from stagevar.errors import ForeignCheckpointError, MissingExtraError, MissingFileError, PromptError, first_line
from stagevar.quiet import errors_only, no_bars

CACHED_PROMPTS = 64


class TextEncoder(ABC):
    """Prompts to the states of a pretrained encoder.

    Each prompt is encoded by itself, without padding, so that its states do not depend on the batch it is in; the
    most recent ones are kept.

    Attributes:
        device: where the encoder computes; the states are returned on the CPU.
        offload: whether its weights wait on the CPU between calls.
        max_length: tokens that it reads at most, special ones included.
    """

    kind: ClassVar[str]
    """What it is, for error messages."""
    spare_words: ClassVar[int] = 0
    """Rows that the table of embeddings may have beyond the tokenizer's entries."""
    folders: tuple[str, str] = ("", "")
    """Of encoder and tokenizer, inside the folder or repository that they came from."""

    def __init__(self, model: Any, tokenizer: Any, *, offload: bool = False, max_length: int = 512) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.device: torch.device = model.device
        self.offload, self.max_length = offload, max_length
        self._begin()

    def _begin(self) -> None:
        """What a copy or a pickle of the encoder makes anew: the states of recent prompts, and one call at a time."""
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
        """The tokens as they are.

        Raises:
            PromptError: there are more than the encoder reads.
        """
        if len(ids) > self.max_length:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, the text encoder reads at most {self.max_length}; "
                f"shorten it: {prompt[:40]!r}..."
            )
        return tuple(ids)

    @abstractmethod
    def _encode(self, ids: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """States (T, C) and, where there is one, the summary vector (C), in float32 on the CPU."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        subfolder: str = "",
        tokenizer_subfolder: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        offload: bool = False,
        max_length: int | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Load encoder and tokenizer from a folder or a hub repository in the layout of transformers.

        Args:
            source: the folder or repository.
            subfolder, tokenizer_subfolder: where in ``source`` the two are; the tokenizer's is the encoder's if None.
            dtype, device: of the encoder.
            offload: keep its weights on the CPU between calls.
            max_length: tokens to read at most; None means the encoder's own limit.
            revision, local_files_only, token: as in huggingface_hub.

        Raises:
            MissingExtraError: transformers is not installed.
            MissingFileError: the files are neither on disk nor reachable.
            ForeignCheckpointError: the files are not those of such an encoder.
        """
        try:
            load_model, load_tokenizer = (kind.from_pretrained for kind in cls._classes())
        except ImportError:
            raise MissingExtraError("transformers", "text") from None
        what = f"text encoder {source}" + (f" ({subfolder})" if subfolder else "")
        if Path(source).is_dir() and not (Path(source) / subfolder / "config.json").is_file():
            raise MissingFileError(f"{what}: there is no config.json; put the encoder's own beside its weights")
        words = subfolder if tokenizer_subfolder is None else tokenizer_subfolder
        options: dict[str, Any] = {
            "revision": revision or "main",
            "local_files_only": local_files_only,
            "token": token,
        }
        try:
            with errors_only("huggingface_hub", "transformers"), no_bars():
                model, info = load_model(source, dtype=dtype, output_loading_info=True, subfolder=subfolder, **options)
                tokenizer = load_tokenizer(source, subfolder=words, **options)
        except OSError as error:
            raise MissingFileError(f"{what}: {first_line(error)}") from error
        except Exception as error:  # whatever a broken file makes transformers raise
            raise ForeignCheckpointError(
                f"{what} is no {cls.kind} ({type(error).__name__}: {first_line(error)})"
            ) from error
        if missing := sorted(info["missing_keys"]):
            raise ForeignCheckpointError(
                f"{what}: {len(missing)} tensors missing, such as {missing[0]}; is it a {cls.kind}?"
            )
        # Without its files transformers makes up a tokenizer that knows no word, so the sizes have to agree.
        entries = model.get_input_embeddings().num_embeddings
        if not 0 <= entries - len(tokenizer) <= cls.spare_words:
            raise MissingFileError(
                f"{what}: the tokenizer has {len(tokenizer)} entries, the encoder {entries}; "
                "are the tokenizer's files missing (tokenizer.json, vocab.json and merges.txt, or spiece.model)?"
            )
        model.requires_grad_(False).eval()
        length = {} if max_length is None else {"max_length": max_length}
        encoder = cls(model, tokenizer, offload=offload, **length).to(device)
        encoder.folders = subfolder, words
        return encoder

    @property
    def encoders(self) -> tuple[TextEncoder, ...]:
        """Itself: the parts of what may be several encoders."""
        return (self,)

    def save(self, folder: Path) -> None:
        """Write encoder and tokenizer to a new folder as ``from_pretrained`` reads them, in their own dtype."""
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
        """The states of each prompt: (T, C) float32 rows of its tokens, special ones included, no padding.

        Raises:
            PromptError: a prompt that the encoder cannot read.
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
