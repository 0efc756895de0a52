"""The words that a small model knows, and their ids."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_WORDS = 11


class Words:
    """A vocabulary: ids 0 and 1 are padding and the empty condition of classifier-free guidance.

    Attributes:
        vocabulary: all words by id.
        null: token ids of the empty condition.
    """

    def __init__(self, words: Iterable[str], example: str) -> None:
        self._example = example
        self.vocabulary: tuple[str, ...] = ("<pad>", "<null>", *words)
        self.null: tuple[int, ...] = (1,) + (0,) * (MAX_WORDS - 1)
        self._ids = {word: index for index, word in enumerate(self.vocabulary) if index > 1}

    def unknown(self, caption: str) -> list[str]:
        """The words of a caption that are not in the vocabulary, each once, in order."""
        return list(dict.fromkeys(word for word in _words(caption) if word not in self._ids))

    def known(self, caption: str) -> list[str]:
        """The words of a caption, in lower case and without punctuation.

        Raises:
            ValueError: the caption is empty or has unknown words.
        """
        words = _words(caption)
        if not words:
            raise ValueError(f"the caption is empty; try one such as {self._example!r}")
        if unknown := self.unknown(caption):
            raise ValueError(f"the model does not know {', '.join(map(repr, unknown))}; it knows {' '.join(self._ids)}")
        return words

    def tokenize(self, caption: str) -> list[int]:
        """Indices into `vocabulary` of a caption's words, padded with 0 to `MAX_WORDS`.

        Case and punctuation do not matter.

        Raises:
            ValueError: the caption is empty, or has unknown words or too many.
        """
        words = self.known(caption)
        if len(words) > MAX_WORDS:
            raise ValueError(f"the caption has {len(words)} words; the model reads at most {MAX_WORDS}")
        return [self._ids[word] for word in words] + [0] * (MAX_WORDS - len(words))


def _words(caption: str) -> list[str]:
    return re.sub(r"[^\w\s]", " ", caption.lower()).split()
