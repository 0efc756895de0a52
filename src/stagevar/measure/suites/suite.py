"""A suite: what is asked of a model, and how its pictures are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Protocol

from torch import Tensor


class Question(Protocol):
    """One prompt of a suite."""

    @property
    def caption(self) -> str: ...
    @property
    def category(self) -> str: ...


class Verdict(Protocol):
    """Whether one picture shows what was asked for: in all respects, or in those that matter less too."""

    @property
    def strict(self) -> bool: ...
    @property
    def relaxed(self) -> bool: ...


class Suite(Protocol):
    """Questions with an exact reader of the pictures."""

    def questions(self, count: int, seed: int = 0) -> Sequence[Question]:
        """So many questions, the categories in turn."""

    def parse(self, captions: Sequence[str]) -> Sequence[Question]:
        """What captions ask for.

        Raises:
            PromptError: one that the suite cannot read.
        """

    def held_out(self, question: Question) -> bool:
        """Whether training has seen no picture of the kind."""

    def judge(self, questions: Sequence[Question], pictures: Tensor) -> Sequence[Verdict]:
        """Pictures (n, 3, h, w) in [0, 1], each held against its question."""

    def readings(self, questions: Sequence[Question], pictures: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Per entry of ``pictures`` (the same n pictures as they come to be) figures (n,) by name."""


def by_category(questions: Sequence[Question], values: Sequence[float]) -> dict[str, list[float]]:
    """The values of each category."""
    groups: dict[str, list[float]] = {}
    for question, value in zip(questions, values, strict=False):
        groups.setdefault(question.category, []).append(value)
    return groups


def mean_of_categories(questions: Sequence[Question], values: Sequence[float]) -> float | None:
    """The mean over categories of their means, as GenEval weighs them; None without values."""
    groups = by_category(questions, values)
    return fmean(map(fmean, groups.values())) if groups else None


def composition(suite: Suite, questions: Sequence[Question]) -> Mapping[str, int]:
    """How many questions there are, how many of them are held out, and how many are different."""
    return {
        "captions": len(questions),
        "held_out": sum(map(suite.held_out, questions)),
        "different": len({question.caption for question in questions}),
    }
