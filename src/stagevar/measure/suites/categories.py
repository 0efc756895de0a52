"""Figures of a suite over its categories, weighed as GenEval does: the mean over categories of their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from stagevar.measure.suites.suite import Question, Suite, Verdict

Value = TypeVar("Value")


def scores(questions: Sequence[Question], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Shares of right pictures: ``overall`` with its standard error, ``relaxed``, and both by category."""
    strict, relaxed = ([float(getattr(verdict, kind)) for verdict in verdicts] for kind in ("strict", "relaxed"))
    return {
        "overall": mean_of_categories(questions, strict),
        "error": standard_error(questions, strict),
        "relaxed": mean_of_categories(questions, relaxed),
        "categories": {name: fmean(values) for name, values in by_category(questions, strict).items()},
        "relaxed_categories": {name: fmean(values) for name, values in by_category(questions, relaxed).items()},
    }


def mean_of_categories(questions: Sequence[Question], values: Sequence[float]) -> float | None:
    """The mean over categories of their means; None without values."""
    groups = by_category(questions, values)
    return fmean(map(fmean, groups.values())) if groups else None


def standard_error(questions: Sequence[Question], values: Sequence[float]) -> float | None:
    """Standard error of ``mean_of_categories``. Pictures of one caption depend on one another, so captions count as
    independent and pictures do not. None without values, or if a category has one caption only."""
    captions = by_category(questions, [question.caption for question in questions[: len(values)]])
    groups = by_category(questions, values)
    if not groups or any(len(set(each)) == 1 for each in captions.values()):
        return None
    return sum(_variance(captions[name], group) for name, group in groups.items()) ** 0.5 / len(groups)


def _variance(captions: Sequence[str], values: Sequence[float]) -> float:
    """Variance of the mean of values that come in clusters, one per caption (Liang and Zeger 1986)."""
    mean, sums = fmean(values), dict.fromkeys(captions, 0.0)
    for caption, value in zip(captions, values, strict=True):
        sums[caption] += value - mean
    return sum(each**2 for each in sums.values()) / len(values) ** 2 * len(sums) / (len(sums) - 1)


def by_category(questions: Sequence[Question], values: Sequence[Value]) -> dict[str, list[Value]]:
    """The values of each category."""
    groups: dict[str, list[Value]] = {}
    for question, value in zip(questions, values, strict=False):
        groups.setdefault(question.category, []).append(value)
    return groups


def composition(suite: Suite, questions: Sequence[Question]) -> Mapping[str, int]:
    """How many questions there are, how many of them are held out, and how many are different."""
    return {
        "captions": len(questions),
        "held_out": sum(map(suite.held_out, questions)),
        "different": len({question.caption for question in questions}),
    }
