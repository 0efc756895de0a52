"""Scenes of a world, drawn at random: those that training may see, and those that are kept for scoring."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Composition(Protocol):
    """A scene, as far as its split depends on it."""

    @property
    def caption(self) -> str: ...
    @property
    def category(self) -> str: ...


S = TypeVar("S", bound=Composition)


@dataclass(frozen=True)
class Split(Generic[S]):
    """How a world's scenes are dealt out.

    Attributes:
        weights: training weight of each category.
        composed: categories whose scenes are split; the others have too few captions.
        draw: draws a scene of a category.
    """

    weights: Mapping[str, float]
    composed: Collection[str]
    draw: Callable[[random.Random, str], S]

    def held_out(self, scene: S) -> bool:
        """Whether a composition is kept out of training: about a tenth of each of the composed categories."""
        digest = hashlib.md5(f"held out: {scene.caption}".encode(), usedforsecurity=False).hexdigest()
        return scene.category in self.composed and int(digest, 16) % 10 == 0

    def sample(self, rng: random.Random, category: str | None = None, held_out: bool = False) -> S:
        """Draw a scene, of a category drawn by its training weight unless given.

        Args:
            rng, category: what is drawn from.
            held_out: which side of the split: captions that training never sees, or all others.
        """
        category = category or rng.choices(tuple(self.weights), list(self.weights.values()))[0]
        while True:
            scene = self.draw(rng, category)
            if category not in self.composed or self.held_out(scene) == held_out:
                return scene

    def suite(self, n: int, seed: int = 0) -> list[S]:
        """``n`` scenes for scoring, the categories in turn. Scenes of the composed categories are held out, the others
        are not. A scene repeats if 30 draws of its category give no new one."""
        rng = random.Random(seed)
        suite: list[S] = []
        for category in itertools.islice(itertools.cycle(self.weights), n):
            draws = [self.sample(rng, category, held_out=True) for _ in range(30)]
            suite.append(next((scene for scene in draws if scene not in suite), draws[0]))
        return suite
