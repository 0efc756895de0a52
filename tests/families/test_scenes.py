import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stagevar.measure.suites.categories import scores
from stagevar.scenes.captions import (
    CATEGORIES,
    CATEGORY_WEIGHTS,
    SHAPES,
    WORDS,
    Scene,
    Thing,
    caption_suite,
    held_out,
    parse,
    sample_scene,
)
from stagevar.scenes.oracle import components, judge, read
from stagevar.scenes.render import RADII, SIZE, STYLES, lay_out, render, render_batch
from stagevar.scenes.words import MAX_WORDS


def scenes_of_all_categories(n: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng, category) for category in itertools.islice(itertools.cycle(CATEGORIES), n)]


@pytest.mark.parametrize(
    ("scene", "caption"),
    [
        (Scene("single_object", (Thing("star"),)), "a star"),
        (Scene("colors", (Thing("circle", "red"),)), "a red circle"),
        (Scene("counting", (Thing("star", "green"),), count=3), "three green stars"),
        (Scene("counting", (Thing("cross"),), count=2), "two crosses"),
        (Scene("counting", (Thing("ring"),)), "one ring"),
        (Scene("two_objects", (Thing("star"), Thing("cross"))), "a star and a cross"),
        (
            Scene("color_attribution", (Thing("ring", "red"), Thing("square", "green"))),
            "a red ring and a green square",
        ),
        (
            Scene("position", (Thing("circle", "red"), Thing("square", "blue")), relation="left"),
            "a red circle to the left of a blue square",
        ),
        (Scene("position", (Thing("star"), Thing("ring")), relation="above"), "a star above a ring"),
    ],
)
def test_caption_and_parse_are_inverse(scene: Scene, caption: str) -> None:
    assert scene.caption == caption
    assert parse(caption) == scene


def test_every_sampled_caption_can_be_read_back() -> None:
    for scene in scenes_of_all_categories(600):
        assert parse(scene.caption) == scene
        tokens = WORDS.tokenize(scene.caption)
        assert len(tokens) == MAX_WORDS
        assert " ".join(WORDS.vocabulary[token] for token in tokens if token) == scene.caption


def test_tokenize_overlooks_case_and_punctuation() -> None:
    assert WORDS.vocabulary[:2] == ("<pad>", "<null>")
    assert WORDS.tokenize("A red circle, and a Star.") == WORDS.tokenize("a red circle and a star")
    assert parse("Three green star!") == parse("three green stars")


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("", "empty"),
        (" .", "empty"),
        ("a purple dog", "'purple', 'dog'.*triangle"),
        ("a <null> star", "'null'"),
        ("a " * (MAX_WORDS + 1), f"{MAX_WORDS + 1} words"),
    ],
)
def test_tokenize_explains_what_is_wrong(caption: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WORDS.tokenize(caption)


@pytest.mark.parametrize(
    "caption", ["red", "a star and", "a red star and a cross", "three stars and a ring", "the star"]
)
def test_parse_rejects_what_is_not_a_caption(caption: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        parse(caption)


def test_unknown_words_are_listed_once() -> None:
    assert WORDS.unknown("a dog, a Cat and a dog") == ["dog", "cat"]


def test_categories_are_drawn_by_weight() -> None:
    rng = random.Random(0)
    counts = Counter(sample_scene(rng).category for _ in range(4000))
    for category, weight in CATEGORY_WEIGHTS.items():
        assert counts[category] / 4000 == pytest.approx(weight, abs=0.03)


def test_splits_do_not_mix() -> None:
    rng = random.Random(0)
    for category in ("two_objects", "counting", "position", "color_attribution"):
        drawn = [sample_scene(rng, category) for _ in range(200)]
        kept = [sample_scene(rng, category, held_out=True) for _ in range(50)]
        assert not any(held_out(scene) for scene in drawn)
        assert all(held_out(scene) for scene in kept)


def test_three_distinct_pairs_of_objects_are_held_out() -> None:
    pairs = [
        shapes
        for shapes in itertools.permutations(SHAPES, 2)
        if held_out(Scene("two_objects", (Thing(shapes[0]), Thing(shapes[1]))))
    ]
    assert len({frozenset(shapes) for shapes in pairs}) == len(pairs) == 3


def test_caption_suite_takes_categories_in_turn() -> None:
    suite = caption_suite(60)
    assert suite == caption_suite(60) != caption_suite(60, seed=1)
    assert [scene.category for scene in suite] == list(CATEGORIES) * 10
    attributions = [scene for scene in suite if scene.category == "color_attribution"]
    assert len(set(attributions)) == 10


def test_render_follows_its_rng() -> None:
    scene = parse("a red circle to the left of a blue square")
    picture = render(scene, random.Random(3))
    assert picture.shape == (SIZE, SIZE, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, render(scene, random.Random(3)))
    assert len({render(scene, random.Random(seed)).tobytes() for seed in range(40)}) > STYLES


def test_layout_follows_from_caption_and_style() -> None:
    rng = random.Random(0)
    for scene in scenes_of_all_categories(30):
        seen: dict[int, set[object]] = {}
        for _ in range(60):
            layout = lay_out(scene, rng)
            coarse = tuple((placed.shape, placed.color, placed.x, placed.y) for placed in layout.objects)
            seen.setdefault(layout.style, set()).add(coarse)
        assert all(len(layouts) == 1 for layouts in seen.values())


def test_objects_keep_clear_of_the_border_and_of_each_other() -> None:
    rng = random.Random(0)
    for scene in scenes_of_all_categories(600):
        objects = lay_out(scene, rng).objects
        radius = RADII[len(objects)]
        for placed in objects:
            assert radius + 2 <= min(placed.x, placed.y) <= max(placed.x, placed.y) <= SIZE - radius - 2
        for one, other in itertools.combinations(objects, 2):
            gap = max(abs(one.x - other.x), abs(one.y - other.y)) - 2 * radius
            assert gap >= (5 if len(objects) == 2 else 0)
        if scene.category in ("two_objects", "position"):
            assert objects[0].color != objects[1].color


def test_components_are_joined_where_they_touch() -> None:
    mask = np.array([[1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1], [1, 0, 1, 1]], dtype=bool)
    assert sorted(int(part.sum()) for part in components(mask)) == [1, 3, 5]
    assert components(np.zeros((3, 3), dtype=bool)) == []
    random_mask = np.random.default_rng(0).random((40, 40)) < 0.6
    parts = components(random_mask)
    np.testing.assert_array_equal(np.sum(parts, axis=0), random_mask)
    for one, other in itertools.combinations(parts, 2):
        assert not (one[1:] & other[:-1]).any()
        assert not (one[:, 1:] & other[:, :-1]).any()


def test_read_names_what_was_drawn() -> None:
    scene = parse("a red ring and a green square")
    placed = lay_out(scene, random.Random(0)).objects
    found = sorted(read(render(scene, random.Random(0))), key=lambda candidate: candidate.x)
    assert [(candidate.color, candidate.shape) for candidate in found] == [("red", "ring"), ("green", "square")]
    for candidate, truth in zip(found, placed, strict=True):
        assert (candidate.x, candidate.y) == pytest.approx((truth.x, truth.y), abs=1)
        assert candidate.score > 0.8


def test_touching_objects_of_two_colors_are_two() -> None:
    picture = np.full((SIZE, SIZE, 3), 60, dtype=np.uint8)
    picture[20:40, 12:32] = (250, 32, 32)
    picture[20:40, 32:52] = (32, 32, 250)
    assert {(found.color, found.shape) for found in read(picture)} == {("red", "square"), ("blue", "square")}


def test_relaxed_overlooks_shapes_only() -> None:
    def relaxed(shown: str, asked: str) -> tuple[bool, bool]:
        verdict = judge(parse(asked), render(parse(shown), random.Random(0)))
        return verdict.strict, verdict.relaxed

    assert relaxed("three red stars", "three red rings") == (False, True)
    assert relaxed("three red stars", "three blue stars") == (False, False)
    assert relaxed("three red stars", "two red stars") == (False, False)
    assert relaxed("a red star above a blue ring", "a red cross above a blue star") == (False, True)
    assert relaxed("a red star above a blue ring", "a red star below a blue ring") == (False, False)
    assert relaxed("a red star above a blue ring", "a red ring above a blue star") == (False, True)
    assert relaxed("a red star and a blue ring", "a blue star and a red ring") == (False, True)
    assert relaxed("a red star and a blue ring", "a star") == (True, True)


@pytest.mark.parametrize("grey", [0, 60, 255])
def test_nothing_is_found_in_an_empty_picture(grey: int) -> None:
    picture = np.full((SIZE, SIZE, 3), grey, dtype=np.uint8)
    for scene in scenes_of_all_categories(12):
        verdict = judge(scene, picture)
        assert (verdict.strict, verdict.relaxed, verdict.found) == (False, False, [])


def shares(scenes: Sequence[Scene], pictures: Sequence[npt.NDArray[np.uint8]]) -> dict[str, Any]:
    return scores(scenes, [judge(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)])


def test_size_of_the_picture_does_not_matter() -> None:
    scenes = scenes_of_all_categories(24)
    pictures = render_batch(scenes, random.Random(0)).repeat(3, axis=1).repeat(3, axis=2)
    assert shares(scenes, pictures)["overall"] == 1.0


def wrong_scene(scene: Scene, rng: random.Random) -> Scene:
    """Another scene of the category; one without colours differs in its shapes, or it could be true as well."""
    while True:
        wrong = sample_scene(rng, scene.category, held_out=rng.random() < 0.1)
        shapes, wrong_shapes = ([thing.shape for thing in things] for things in (scene.things, wrong.things))
        if wrong != scene and (wrong.things[0].color or sorted(shapes) != sorted(wrong_shapes)):
            return wrong


def check_oracle(n: int) -> None:
    rng = random.Random(0)
    scenes = [sample_scene(rng, CATEGORIES[index % len(CATEGORIES)], held_out=rng.random() < 0.5) for index in range(n)]
    pictures = render_batch(scenes, rng)
    found = shares(scenes, pictures)
    wrong = [judge(wrong_scene(scene, rng), picture).strict for scene, picture in zip(scenes, pictures, strict=True)]
    print(f"strict {found['overall']:.4f}, relaxed {found['relaxed']:.4f}, wrong captions {np.mean(wrong):.4f}")
    assert set(found["categories"]) == set(found["relaxed_categories"]) == set(CATEGORIES)
    assert min(found["overall"], found["relaxed"]) >= 0.99
    assert np.mean(wrong) <= 0.05


def test_oracle_is_right() -> None:
    check_oracle(600)


@pytest.mark.slow
def test_oracle_is_right_on_many_pictures() -> None:
    check_oracle(2000)


def blurred(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    padded = np.pad(picture.astype(np.float32), ((1, 1), (1, 1), (0, 0)), "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    blurred_picture: npt.NDArray[np.uint8] = windows.mean((-1, -2)).round().astype(np.uint8)
    return blurred_picture


def test_oracle_bears_with_imperfect_pictures() -> None:
    scenes = scenes_of_all_categories(120)
    pictures = [blurred(picture) for picture in render_batch(scenes, random.Random(0))]
    assert shares(scenes, pictures)["overall"] >= 0.97


@pytest.mark.slow
def test_rendering_keeps_up_with_training() -> None:
    scenes = scenes_of_all_categories(700)
    render_batch(scenes, random.Random(0))
    started = time.process_time()
    pictures = render_batch(scenes, random.Random(0))
    rendered = time.process_time()
    shares(scenes, pictures)
    assert rendered - started < 1
    assert time.process_time() - rendered < 700 / 300
