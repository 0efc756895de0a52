"""The worlds that a network of this family draws: its words, and what it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stagevar.photos.captions import WORDS as PHOTO_WORDS
from stagevar.scenes.captions import WORDS as SHAPE_WORDS
from stagevar.scenes.words import Words


@dataclass(frozen=True, slots=True)
class World:
    """What differs between networks that draw shapes and networks that draw photographs.

    Attributes:
        words: the words that the text encoder knows.
        samples: prompts to show the model with.
        reader: whether the model brings a network along that reads its pictures.
    """

    words: Words
    samples: tuple[str, ...]
    reader: bool = False


WORLDS: Mapping[str, World] = {
    "scenes": World(
        SHAPE_WORDS,
        (
            "a red circle to the left of a blue square",
            "three green stars",
            "a yellow ring above a pink cross",
            "a cyan triangle and a red star",
        ),
    ),
    "photos": World(
        PHOTO_WORDS,
        ("a tiger on grass", "three strawberries", "a duck above a drum", "a lemon and a fox"),
        reader=True,
    ),
}
