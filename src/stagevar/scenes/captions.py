"""Captions of coloured shapes in the six categories of GenEval (Ghosh et al. 2023, arXiv:2310.11513)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from stagevar.scenes.split import Split
from stagevar.scenes.words import Words

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLORS = ("red", "yellow", "green", "cyan", "blue", "pink")
NUMBERS = ("one", "two", "three", "four")
RELATIONS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}

CATEGORY_WEIGHTS = {
    "single_object": 0.06,
    "two_objects": 0.14,
    "counting": 0.22,
    "colors": 0.08,
    "position": 0.27,
    "color_attribution": 0.23,
}
"""Share of each category among the captions of training."""
COLOURED_SHARE = {
    "single_object": 0.0,
    "two_objects": 0.0,
    "counting": 0.6,
    "colors": 1.0,
    "position": 0.75,
    "color_attribution": 1.0,
}
"""Share of a category's captions that name colours."""
COUNT_WEIGHTS = (1, 9, 9, 9)
"""How often training counts to one, two, three and four."""
CATEGORIES = tuple(CATEGORY_WEIGHTS)
COMPOSED = ("two_objects", "counting", "position", "color_attribution")
"""Categories with enough captions that some can be held out."""

_PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
_SINGULARS = {shape: shape for shape in SHAPES} | {plural: shape for shape, plural in _PLURALS.items()}

WORDS = Words(
    (
        *("a", "an", "and", "to", "the", "left", "right", "of", "above", "below"),
        *NUMBERS,
        *COLORS,
        *_SINGULARS,
    ),
    example="a red circle to the left of a blue square",
)


@dataclass(frozen=True)
class Thing:
    """What a caption says of one object; `color` is None where the caption leaves it open."""

    shape: str
    color: str | None = None

    def phrase(self, plural: bool = False) -> str:
        """The noun phrase without its article: "red circle", "stars"."""
        noun = _PLURALS[self.shape] if plural else self.shape
        return f"{self.color} {noun}" if self.color else noun


@dataclass(frozen=True)
class Scene:
    """Meaning of a caption.

    `things` holds one thing, or two for `two_objects`, `position` and `color_attribution`. `count` is how many
    copies of the only thing a `counting` scene shows. `relation` is a key of `RELATIONS`, for `position` only:
    the first thing stands in that relation to the second.
    """

    category: str
    things: tuple[Thing, ...]
    count: int = 1
    relation: str | None = None

    @property
    def caption(self) -> str:
        """The scene in words; `parse` is the inverse."""
        if self.category == "counting":
            return f"{NUMBERS[self.count - 1]} {self.things[0].phrase(plural=self.count > 1)}"
        link = RELATIONS[self.relation] if self.relation else "and"
        return f" {link} ".join(_with_article(thing.phrase()) for thing in self.things)


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


_THING = rf"(?:({'|'.join(COLORS)}) )?({'|'.join(_SINGULARS)})"
_ONE_OR_TWO = re.compile(rf"an? {_THING}(?: (and|{'|'.join(RELATIONS.values())}) an? {_THING})?")
_COUNTED = re.compile(rf"({'|'.join(NUMBERS)}) {_THING}")
_RELATION_OF_PHRASE = {phrase: relation for relation, phrase in RELATIONS.items()}


def parse(caption: str) -> Scene:
    """The scene that a caption describes.

    Raises:
        ValueError: the caption is empty, has unknown words, or does not follow the grammar of `Scene.caption`.
    """
    text = " ".join(WORDS.known(caption))
    if match := _COUNTED.fullmatch(text):
        number, color, shape = match.groups()
        return Scene("counting", (Thing(_SINGULARS[shape], color),), count=NUMBERS.index(number) + 1)
    if match := _ONE_OR_TWO.fullmatch(text):
        color, shape, link, other_color, other_shape = match.groups()
        first = Thing(_SINGULARS[shape], color)
        if link is None:
            return Scene("colors" if color else "single_object", (first,))
        pair = (first, Thing(_SINGULARS[other_shape], other_color))
        if (color is None) == (other_color is None):
            if link in _RELATION_OF_PHRASE:
                return Scene("position", pair, relation=_RELATION_OF_PHRASE[link])
            return Scene("color_attribution" if color else "two_objects", pair)
    raise ValueError(
        f"cannot read {caption!r} as a scene; captions look like 'a star', 'three green stars', "
        "'a star and a cross', 'a red ring and a green square' or 'a star above a cross'"
    )


def _draw(rng: random.Random, category: str) -> Scene:
    shapes = rng.sample(SHAPES, 2)
    coloured = rng.random() < COLOURED_SHARE[category]
    colors = rng.sample(COLORS, 2) if coloured else (None, None)
    first, second = (Thing(shape, color) for shape, color in zip(shapes, colors, strict=True))
    if category in ("single_object", "colors"):
        return Scene(category, (first,))
    if category == "counting":
        return Scene(category, (first,), count=rng.choices((1, 2, 3, 4), COUNT_WEIGHTS)[0])
    relation = rng.choice(tuple(RELATIONS)) if category == "position" else None
    return Scene(category, (first, second), relation=relation)


SPLIT = Split(CATEGORY_WEIGHTS, COMPOSED, _draw)
held_out, sample_scene, caption_suite = SPLIT.held_out, SPLIT.sample, SPLIT.suite
