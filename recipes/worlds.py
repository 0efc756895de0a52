"""The worlds that the recipe trains: what it needs of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from photos.world import Photos
from scenes.texture import Texture
from scenes.world import Shapes
from torch import Tensor

from stagevar.engine.contract.model import Defaults
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes


class World(Protocol):
    """Captions, their pictures, and what a model of them needs beside its network."""

    config: ScenesConfig
    defaults: Defaults
    """Settings of samples, and of the model that is written."""

    def sample(self, rng: random.Random, held_out: bool = False) -> Any:
        """A scene of training, or of those held out; it has a ``caption``."""

    def render(self, scenes: Sequence[Any], rng: random.Random) -> Any:
        """Pictures of scenes: uint8 (n, 64, 64, 3)."""

    def furnish(self, model: Scenes, seed: int) -> None:
        """Fill the parts of a model that are neither tokenizer nor network, once the tokenizer is fitted."""


WORLDS: Mapping[str, Callable[[Path], World]] = {"scenes": Shapes, "texture": Texture, "photos": Photos}
"""Each maps the folder of a run to the world."""


def render(world: World, scenes: Sequence[Any], rng: random.Random) -> Tensor:
    """Pictures (n, 3, 64, 64) in [0, 1]."""
    return torch.from_numpy(world.render(scenes, rng)).permute(0, 3, 1, 2).float() / 255
