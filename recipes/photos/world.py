"""The world of photographs, as the recipe sees it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from photos.reading import train_reader
from photos.render import Picture, Renderer

from stagevar.engine.contract.model import Defaults
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.photos.captions import Scene, sample_scene


class Photos:
    config = ScenesConfig(world="photos", codes=(128, 128, 256, 256, 256, 256, 512, 512, 512, 704))
    defaults = Defaults(guidance=3.0, temperature=(1.0, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.6, 0.7))

    def __init__(self, run: Path) -> None:
        self.renderer = Renderer(run / "material")

    def sample(self, rng: random.Random, held_out: bool = False) -> Scene:
        return sample_scene(rng, held_out=held_out)

    def render(self, scenes: Sequence[Scene], rng: random.Random) -> Picture:
        return self.renderer.render_batch(scenes, rng)

    def furnish(self, model: Scenes, seed: int) -> None:
        """Train the reader of pictures."""
        train_reader(model.reader, self.renderer, model.tokenizer, seed)
