"""Suites: what a model is asked, how its pictures are read, and how figures are weighed."""

from __future__ import annotations

from statistics import variance

import pytest

from stagevar.families.tiny import tiny
from stagevar.measure.bench.table import asked
from stagevar.measure.suites.categories import composition, mean_of_categories, scores, standard_error
from stagevar.measure.suites.known import SCENES, in_turn, questions_for, suite_of
from stagevar.measure.suites.suite import Prompt
from stagevar.scenes.captions import COMPOSED, held_out
from stagevar.scenes.oracle import Verdict


def questions(captions: str, categories: str = "") -> list[Prompt]:
    """One per letter."""
    return [Prompt(*pair) for pair in zip(captions, categories or "a" * len(captions), strict=True)]


def test_the_benchmark_asks_300_captions_of_which_200_are_held_out_and_161_are_different() -> None:
    drawn = composition(SCENES, SCENES.questions(300))
    assert drawn == {"captions": 300, "held_out": 200, "different": 161}
    assert asked(drawn) == "300 captions (200 of them held out, 161 different)"


def test_of_four_categories_the_suite_asks_only_what_training_has_not_seen() -> None:
    for question in SCENES.questions(120):
        assert SCENES.held_out(question) == held_out(question) == (question.category in COMPOSED)


def test_a_small_category_counts_as_much_as_a_large_one() -> None:
    asked, values = questions("abcd", "xxxy"), [1.0, 1.0, 1.0, 0.0]
    assert mean_of_categories(asked, values) == 0.5
    assert mean_of_categories(asked, []) is None


def test_the_error_is_that_of_a_mean_where_captions_are_different() -> None:
    values = [0.2, 0.9, 0.4, 0.7]
    assert standard_error(questions("abcd"), values) == pytest.approx((variance(values) / 4) ** 0.5)
    halves = [variance(values[:2]) / 2, variance(values[2:]) / 2]
    assert standard_error(questions("abcd", "xxyy"), values) == pytest.approx(sum(halves) ** 0.5 / 2)


def test_drawing_a_caption_twice_with_equal_outcomes_does_not_shrink_the_error() -> None:
    once = standard_error(questions("abcd"), [0.2, 0.9, 0.4, 0.7])
    assert standard_error(questions("abcdabcd"), [0.2, 0.9, 0.4, 0.7] * 2) == pytest.approx(once)


def test_one_caption_in_a_category_has_no_error() -> None:
    assert standard_error(questions("aabc", "xxyy"), [1, 0, 1, 0]) is None
    assert standard_error(questions("ab"), []) is None


def test_scores_are_shares_by_category_and_their_mean() -> None:
    verdicts = [Verdict(strict, relaxed, []) for strict, relaxed in ((True, True), (False, True), (False, False))]
    found = scores(questions("abc", "xxy"), verdicts)
    assert (found["overall"], found["relaxed"]) == (0.25, 0.5)
    assert found["categories"] == {"x": 0.5, "y": 0.0} and found["relaxed_categories"] == {"x": 1.0, "y": 0.0}


@pytest.mark.parametrize("family", ["scenes", "var", "infinity"])
def test_a_model_is_asked_by_its_suite_or_else_for_its_samples_in_turn(family: str) -> None:
    model = tiny(family)
    found = [question.caption for question in questions_for(model, 11)]
    if family == "scenes":
        assert suite_of(model) is SCENES and found == [scene.caption for scene in SCENES.questions(11)]
    else:
        assert suite_of(model) is None
        assert found == [model.samples[i % len(model.samples)] for i in range(11)]
    assert [prompt.caption for prompt in in_turn(["x", "y"], 3)] == ["x", "y", "x"]
