"""A small model on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.families.tiny import randomize
from stagevar.loading.save import save_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model of the scenes family that draws in milliseconds."""
    config = ScenesConfig(width=32, depth=1, heads=2, text_depth=1, grids=(1, 2, 4, 8), codes=(8, 8, 8, 8))
    network = Scenes(config, name="small")
    randomize(network, 0)
    network.tokenizer.codebook.normal_(generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("small")
    save_model(network, folder)
    return folder
