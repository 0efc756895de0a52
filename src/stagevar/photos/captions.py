"""Captions of photographed objects and places, in categories of GenEval (Ghosh et al. 2023, arXiv:2310.11513).

Objects have the colours of their photographs, so GenEval's two categories of colours are left out, and a category of
places stands in for them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from stagevar.scenes.captions import NUMBERS, RELATIONS
from stagevar.scenes.split import Split
from stagevar.scenes.words import Words

OBJECTS = (
    *("frog", "hen", "owl", "penguin", "parrot", "fish", "seahorse", "bee", "bear", "cow", "camel", "lion", "tiger"),
    *("dog", "fox", "elephant", "donkey", "zebra", "giraffe", "pig", "rabbit", "squirrel", "kangaroo", "koala"),
    *("flamingo", "apple", "banana", "strawberry", "lemon", "orange", "pear", "pineapple", "pomegranate", "grape"),
    *("pumpkin", "tomato", "pepper", "corn", "broccoli", "mushroom", "onion", "daffodil", "rose", "marigold"),
    *("duck", "teddy", "camera", "drum", "guitar", "mug", "teapot", "toolbox", "moon", "basketball", "car", "bus"),
    *("tricycle", "balloon", "boat", "mailbox"),
)
PLACES = {
    "grass": "on grass",
    "leaves": "on leaves",
    "moss": "on moss",
    "wood": "on wood",
    "petals": "on petals",
    "pier": "on a pier",
    "shore": "on a shore",
    "dune": "on a dune",
    "hill": "on a hill",
    "forest": "in a forest",
    "meadow": "in a meadow",
    "stream": "in a stream",
    "mountains": "in the mountains",
    "sky": "in the sky",
    "water": "in water",
    "storm": "in a storm",
    "fog": "in fog",
    "dusk": "at dusk",
    "sunset": "at sunset",
    "night": "at night",
}
"""The phrase of each place."""

CATEGORY_WEIGHTS = {"single_object": 0.1, "two_objects": 0.22, "counting": 0.22, "position": 0.24, "place": 0.22}
"""Share of each category among the captions of training."""
COUNT_WEIGHTS = (1, 1, 1)
"""How often training counts to two, three and four."""
CATEGORIES = tuple(CATEGORY_WEIGHTS)
COMPOSED = ("two_objects", "counting", "position", "place")
"""Categories with enough captions that some can be held out."""

_IRREGULAR = {
    **{"fish": "fishes", "fox": "foxes", "strawberry": "strawberries", "tomato": "tomatoes"},
    **{"toolbox": "toolboxes", "mailbox": "mailboxes", "bus": "buses", "teddy": "teddies"},
}
_PLURALS = {name: _IRREGULAR.get(name, f"{name}s") for name in OBJECTS}
_SINGULARS = {name: name for name in OBJECTS} | {plural: name for name, plural in _PLURALS.items()}

WORDS = Words(
    (
        *("a", "an", "and", "to", "the", "left", "right", "of", "above", "below", "on", "in", "at"),
        *NUMBERS,
        *_SINGULARS,
        *PLACES,
    ),
    example="a tiger on grass",
)


@dataclass(frozen=True)
class Scene:
    """Meaning of a caption.

    `things` holds the name of one object, or of two for `two_objects` and `position`. `count` is how many copies of the
    only object a `counting` scene shows. `relation` is a key of `RELATIONS`, for `position` only: the first object
    stands in that relation to the second. `place` is a key of `PLACES`, for `place` only.
    """

    category: str
    things: tuple[str, ...]
    count: int = 1
    relation: str | None = None
    place: str | None = None

    @property
    def caption(self) -> str:
        """The scene in words; `parse` is the inverse."""
        if self.category == "counting":
            thing = self.things[0]
            return f"{NUMBERS[self.count - 1]} {_PLURALS[thing] if self.count > 1 else thing}"
        link = RELATIONS[self.relation] if self.relation else "and"
        words = f" {link} ".join(f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}" for thing in self.things)
        return f"{words} {PLACES[self.place]}" if self.place else words


_THING = rf"({'|'.join(_SINGULARS)})"
_ONE_OR_TWO = re.compile(rf"an? {_THING}(?: (and|{'|'.join(RELATIONS.values())}) an? {_THING})?")
_COUNTED = re.compile(rf"({'|'.join(NUMBERS)}) {_THING}")
_PLACED = re.compile(rf"an? {_THING} ({'|'.join(PLACES.values())})")
_RELATION_OF_PHRASE = {phrase: relation for relation, phrase in RELATIONS.items()}
_PLACE_OF_PHRASE = {phrase: place for place, phrase in PLACES.items()}


def parse(caption: str) -> Scene:
    """The scene that a caption describes.

    Raises:
        ValueError: the caption is empty, has unknown words, or does not follow the grammar of `Scene.caption`.
    """
    text = " ".join(WORDS.known(caption))
    if match := _COUNTED.fullmatch(text):
        number, name = match.groups()
        return Scene("counting", (_SINGULARS[name],), count=NUMBERS.index(number) + 1)
    if match := _PLACED.fullmatch(text):
        name, phrase = match.groups()
        return Scene("place", (_SINGULARS[name],), place=_PLACE_OF_PHRASE[phrase])
    if match := _ONE_OR_TWO.fullmatch(text):
        name, link, other = match.groups()
        if link is None:
            return Scene("single_object", (_SINGULARS[name],))
        pair = (_SINGULARS[name], _SINGULARS[other])
        if link in _RELATION_OF_PHRASE:
            return Scene("position", pair, relation=_RELATION_OF_PHRASE[link])
        return Scene("two_objects", pair)
    raise ValueError(
        f"cannot read {caption!r} as a scene; captions look like 'a tiger', 'three strawberries', 'a lemon and a "
        "duck', 'a duck above a drum' or 'a fox on grass'"
    )


def _draw(rng: random.Random, category: str) -> Scene:
    first, second = rng.sample(OBJECTS, 2)
    if category == "counting":
        return Scene(category, (first,), count=rng.choices((2, 3, 4), COUNT_WEIGHTS)[0])
    if category == "place":
        return Scene(category, (first,), place=rng.choice(tuple(PLACES)))
    if category == "single_object":
        return Scene(category, (first,))
    return Scene(category, (first, second), relation=rng.choice(tuple(RELATIONS)) if category == "position" else None)


SPLIT = Split(CATEGORY_WEIGHTS, COMPOSED, _draw)
held_out, sample_scene, caption_suite = SPLIT.held_out, SPLIT.sample, SPLIT.suite
