"""A suite: what is asked of a model, and how its pictures are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Question(Protocol):
    """One prompt of a suite."""

    @property
    def caption(self) -> str: ...
    @property
    def category(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question without a reader, for models that have no suite."""

    caption: str
    category: str = "any"


class Verdict(Protocol):
    """Whether one picture shows what was asked for: in every respect (strict), or with some overlooked (relaxed)."""

    @property
    def strict(self) -> bool: ...
    @property
    def relaxed(self) -> bool: ...


class Suite(Protocol):
    """Questions with an exact reader of the pictures."""

    def questions(self, count: int, seed: int = 0) -> Sequence[Question]:
        """``count`` questions, the categories in turn."""

    def parse(self, captions: Sequence[str]) -> Sequence[Question]:
        """What captions ask for.

        Raises:
            PromptError: one that the suite cannot read.
        """

    def held_out(self, question: Question) -> bool:
        """Whether training has seen no picture of the kind."""

    def judge(self, questions: Sequence[Question], pictures: Tensor) -> Sequence[Verdict]:
        """The verdict on each of the pictures (n, 3, h, w) in [0, 1]."""

    def readings(self, questions: Sequence[Question], pictures: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Figures (n,) by name for each entry of ``pictures``; the entries are the same n pictures after each scale."""
