"""Checkpoints that cannot be used, for every family with published weights: each is an error that says why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from stagevar.errors import CheckpointError, ForeignCheckpointError, MissingFileError, UnsafePickleError
from stagevar.families.catalogue import FAMILIES, published
from stagevar.families.family import Size
from stagevar.loading.sources import load

PUBLISHED = dict(published())
ONE_EACH = {
    family: next(name for name in row.sizes if name in PUBLISHED)
    for family, row in FAMILIES.items()
    if not PUBLISHED.keys().isdisjoint(row.sizes)
}
"""A model of each family."""

SETTINGS = {
    **{"depth": 16, "embed_dim": 1024, "num_heads": 16, "patch_nums": [1, 2, 3], "context_token": 8},
    **{"context_dim": 32, "disable_aln": True, "shared_aln": False, "use_timestep_embed": True, "mlp_ratio": 4.0},
    **{"sep_aln_pooling_mode": "max", "use_context_norm": True, "attn_l2_norm": False, "norm_eps": 1e-6},
    **{"diff_width": 64, "diff_depth": 2, "num_sampling_steps": "8"},
}
"""What a network's own ``config.json`` may have to say."""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def write(size: Size, folder: Path, state: Any) -> Path:
    """The files of a published model, all with the same content, each repository in a folder of its own."""
    for part in size.files:
        path = folder / part.repository.split("/")[1] / part.path
        path = path / "pytorch_model.bin" if path.suffix == "" else path
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        (path.parent / "config.json").write_text(json.dumps(SETTINGS))
    return folder


@pytest.mark.parametrize("family", ONE_EACH)
def test_tensors_of_something_else_are_counted_and_named(family: str, tmp_path: Path) -> None:
    name = ONE_EACH[family]
    folder = write(
        PUBLISHED[name], tmp_path, {"unet.conv_in.weight": torch.ones(3), "unet.conv_in.bias": torch.ones(3)}
    )
    with pytest.raises(ForeignCheckpointError) as error:
        load(name, weights=folder, text_encoder=False)
    message = str(error.value)
    assert "\n" not in message
    assert "tensors missing (" in message and "left over (" in message and "unet.conv_in" in message


@pytest.mark.parametrize("family", ONE_EACH)
def test_a_pickle_that_wants_to_run_code_is_refused_with_the_reason(family: str, tmp_path: Path) -> None:
    name = ONE_EACH[family]
    folder = write(PUBLISHED[name], tmp_path, {"weight": torch.ones(2), "where": re.compile("x")})
    with pytest.raises(UnsafePickleError, match=r"would have to run code to load \(re\._compile.*safetensors"):
        load(name, weights=folder, text_encoder=False)


@pytest.mark.parametrize("family", ONE_EACH)
def test_a_truncated_file_is_named(family: str, tmp_path: Path) -> None:
    name = ONE_EACH[family]
    folder = write(PUBLISHED[name], tmp_path, {"weight": torch.ones(2000)})
    for path in folder.rglob("*.*"):
        if path.suffix in (".pth", ".bin"):
            path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ForeignCheckpointError, match="truncated or no checkpoint"):
        load(name, weights=folder, text_encoder=False)


@pytest.mark.parametrize("family", [family for family in ONE_EACH if FAMILIES[family].text])
def test_a_missing_text_encoder_is_said_before_the_weights_are_read(family: str, tmp_path: Path) -> None:
    name = ONE_EACH[family]
    folder = write(PUBLISHED[name], tmp_path, {"weight": torch.ones(2)})
    with pytest.raises(MissingFileError, match=r"text encoder: .*(downloads are off|has no)"):
        load(name, weights=folder)


@pytest.mark.parametrize("family", ONE_EACH)
def test_missing_files_are_named(family: str, tmp_path: Path) -> None:
    name = ONE_EACH[family]
    with pytest.raises(MissingFileError, match="downloads are off"):
        load(name, text_encoder=False)
    with pytest.raises(CheckpointError):
        load(name, weights=tmp_path, text_encoder=False)
