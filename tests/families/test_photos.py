"""The world of photographs in the package: captions, reader, judge and suite."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from stagevar.errors import PromptError
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.families.tiny import tiny
from stagevar.measure.suites.known import suite_of
from stagevar.photos.captions import (
    CATEGORIES,
    COMPOSED,
    OBJECTS,
    PLACES,
    WORDS,
    Scene,
    caption_suite,
    held_out,
    parse,
    sample_scene,
)
from stagevar.photos.judge import Found, judge, read
from stagevar.photos.reader import CELL, NOTHING, OTHER, Reader
from stagevar.pipeline import Pipeline
from stagevar.scenes.words import MAX_WORDS


@pytest.mark.parametrize(
    ("scene", "caption"),
    [
        (Scene("single_object", ("elephant",)), "an elephant"),
        (Scene("counting", ("strawberry",), count=3), "three strawberries"),
        (Scene("two_objects", ("lemon", "duck")), "a lemon and a duck"),
        (Scene("position", ("duck", "drum"), relation="above"), "a duck above a drum"),
        (Scene("position", ("fox", "owl"), relation="left"), "a fox to the left of an owl"),
        (Scene("place", ("fox",), place="grass"), "a fox on grass"),
        (Scene("place", ("apple",), place="mountains"), "an apple in the mountains"),
    ],
)
def test_caption_and_parse_are_inverse(scene: Scene, caption: str) -> None:
    assert scene.caption == caption and parse(caption) == scene


def test_every_sampled_caption_fits_the_vocabulary_and_can_be_read_back() -> None:
    assert 60 <= len(set(OBJECTS)) == len(OBJECTS) <= 100 and 20 <= len(PLACES) <= 30
    assert len(set(WORDS.vocabulary)) == len(WORDS.vocabulary)
    rng = random.Random(0)
    for category in itertools.islice(itertools.cycle(CATEGORIES), 500):
        scene = sample_scene(rng, category)
        assert parse(scene.caption) == scene and not held_out(scene)
        tokens = WORDS.tokenize(scene.caption)
        assert len(tokens) == MAX_WORDS
        assert " ".join(WORDS.vocabulary[token] for token in tokens if token) == scene.caption


@pytest.mark.parametrize(
    "caption", ["tiger", "a tiger on", "two tigers on grass", "a tiger grass", "three tiger above"]
)
def test_parse_rejects_what_is_not_a_caption(caption: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        parse(caption)


def test_the_suite_asks_what_training_has_not_seen() -> None:
    scenes = caption_suite(100)
    assert [scene.category for scene in scenes] == list(CATEGORIES) * 20
    assert all(held_out(scene) == (scene.category in COMPOSED) for scene in scenes)


class Fixed(Reader):
    """Reads every picture as the same cells: rows of class numbers, and the first place."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cells = torch.nn.functional.one_hot(self.rows, OTHER + 1).permute(2, 0, 1).float()
        return cells.expand(len(pictures), -1, -1, -1), torch.eye(1, len(PLACES)).expand(len(pictures), -1)


FOX, OWL = (1 + OBJECTS.index(name) for name in ("fox", "owl"))
PAIR = [[FOX] * 3 + [NOTHING] * 2 + [OWL] * 3] * 3 + [[NOTHING] * 8]


@pytest.mark.parametrize(
    ("caption", "strict", "relaxed"),
    [
        ("a fox", True, True),
        ("a fox and an owl", True, True),
        ("a fox to the left of an owl", True, True),
        ("an owl to the left of a fox", False, True),
        ("a fox above an owl", False, False),
        ("a fox and a lion", False, True),
        ("two foxes", False, True),
        ("three foxes", False, False),
        ("a fox on grass", True, True),
        ("a fox at night", False, False),
    ],
)
def test_judging_asks_for_objects_number_relation_and_place(caption: str, strict: bool, relaxed: bool) -> None:
    [(found, place)] = read(Fixed(PAIR), torch.zeros(1, 3, 64, 64))
    verdict = judge(parse(caption), found, place)
    assert (verdict.strict, verdict.relaxed) == (strict, relaxed)


def test_an_object_has_its_box_in_pixels_and_the_name_of_most_of_its_cells() -> None:
    mixed = [[FOX] * 3 + [OWL] * 3] * 3
    spoilt = [[NOTHING] * 8] + [[NOTHING, *[OTHER] * 3, *[NOTHING] * 4]] * 3
    [(found, place)] = read(Fixed(PAIR), torch.zeros(1, 3, 64, 64))
    assert found[0] == Found("fox", 1.5 * CELL, 1.5 * CELL, 3 * CELL, 3 * CELL, 9) and place == "grass"
    assert [thing.name for thing in read(Fixed(mixed), torch.zeros(1, 3, 64, 64))[0][0]] == [None]
    assert [thing.name for thing in read(Fixed(spoilt), torch.zeros(1, 3, 64, 64))[0][0]] == [None]


def test_a_model_of_photographs_knows_its_words_and_brings_its_reader() -> None:
    model = tiny("scenes", world="photos")
    suite = suite_of(model)
    assert suite is not None and isinstance(model, Scenes)
    assert [scene.caption for scene in suite.questions(5)] == [scene.caption for scene in caption_suite(5)]
    assert len(model.encode_text(model.samples)) == 4
    with pytest.raises(PromptError, match="ring"):
        model.encode_text(["a red ring"])
    pictures = [torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    readings = suite.readings(suite.parse(["a fox", "two owls"]), pictures)
    assert all(each.shape == (2,) for reading in readings for each in reading.values())
    assert readings[-1]["agreement"].tolist() == readings[-1]["objects"].tolist() == [1.0, 1.0]


def test_an_unknown_world_is_refused() -> None:
    with pytest.raises(ValueError, match="'moon'; there are scenes, photos"):
        ScenesConfig(world="moon")


def test_the_weights_in_the_repository_draw_and_their_card_has_their_scores() -> None:
    folder = Path(__file__).parents[2] / "models" / "photos"
    pipe = Pipeline.from_pretrained(folder, device="cpu")
    [picture] = pipe("a tiger on grass", seed=0).images
    assert picture.size == (64, 64) and len(picture.getcolors(64 * 64)) > 500
    measured = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"**{measured['scores']['overall']:.3f}**" in card
    assert sum(file.stat().st_size for file in folder.iterdir()) < 21e6
    assert "GENERAL PUBLIC LICENSE" in (folder / "LICENSE").read_text(encoding="utf-8")
