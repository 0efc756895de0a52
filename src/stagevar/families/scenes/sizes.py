"""The shipped model, and the family's row of the catalogue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stagevar.engine.contract.model import Defaults
from stagevar.families.family import Family, Size
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.families.scenes.restoring import Restoring

SHIPPED = Path(__file__).parents[2] / "scenes" / "weights"

SIZES = {
    "scenes": Size(
        ScenesConfig(),
        licence="Apache-2.0",
        note="64x64 pictures of coloured shapes; runs offline",
        shipped=SHIPPED,
    ),
}


def network(config: ScenesConfig, name: str = "scenes", defaults: Defaults | None = None) -> Scenes:
    """The network of a config, without weights."""
    return (Restoring if config.restores else Scenes)(config, name, defaults)


def _tiny(changes: dict[str, Any]) -> Scenes:
    config = ScenesConfig(width=32, depth=3, heads=2, text_depth=1, grids=(1, 2, 3, 5, 6), codes=(8, 8, 16, 16, 16))
    model = network(replace(config, **changes), "scenes-tiny")
    generator = torch.Generator().manual_seed(0)
    model.tokenizer.codebook.copy_(0.3 * torch.randn(model.tokenizer.codebook.shape, generator=generator))
    return model


FAMILY = Family(
    name="scenes",
    about="64x64 pictures of coloured shapes, from the weights in the package",
    config=ScenesConfig,
    sizes=SIZES,
    build=network,
    tiny=_tiny,
)
