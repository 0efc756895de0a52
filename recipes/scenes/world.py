"""The world of coloured shapes, as the recipe sees it. Everything about it is in the package."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from stagevar.engine.contract.model import Defaults
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.scenes.captions import Scene, sample_scene
from stagevar.scenes.render import Picture, render_batch


class Shapes:
    config = ScenesConfig()
    defaults = Defaults(guidance=2.0, temperature=(1.0, 1.0, 0.9, 0.7, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3))

    def __init__(self, run: Path) -> None:
        pass

    def sample(self, rng: random.Random, held_out: bool = False) -> Scene:
        return sample_scene(rng, held_out=held_out)

    def render(self, scenes: Sequence[Scene], rng: random.Random) -> Picture:
        return render_batch(scenes, rng)

    def furnish(self, model: Scenes, seed: int) -> None:
        pass
