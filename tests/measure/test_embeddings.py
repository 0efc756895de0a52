"""Learned scorers of transformers against their definitions."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTModel,
)

from stagevar.errors import ForeignCheckpointError, MissingExtraError, MissingFileError
from stagevar.measure.likeness.embeddings import CLIP, IMAGENET, clip, dino

from .learned_scorers_parts import SMALL, pictures


def normalised(x: Tensor, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    x = F.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)


def cosine(x: Tensor, y: Tensor) -> list[float]:
    return [float(a @ b / (a @ a).sqrt() / (b @ b).sqrt()) for a, b in zip(x, y, strict=True)]


# --- encoders of transformers ------------------------------------------------


def test_clip_is_the_cosine_of_image_embeddings(clip_folder: Path) -> None:
    x, y = pictures(seed=0), pictures(seed=1)
    scorer = clip(clip_folder)
    assert scorer(x, x).tolist() == pytest.approx([1, 1])
    network = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        pooled = [network.vision_model(pixel_values=normalised(z, 32, *CLIP)).pooler_output for z in (x, y)]
        vectors = [each @ network.visual_projection.weight.T for each in pooled]
    assert scorer(x, y).tolist() == pytest.approx(cosine(*vectors), abs=1e-5)
    assert scorer(x, y).tolist() != pytest.approx([1, 1], abs=1e-5)


def test_the_vision_half_of_clip_will_do(clip_folder: Path, tmp_path: Path) -> None:
    config = CLIPConfig.from_pretrained(clip_folder).vision_config
    config.projection_dim = 6
    CLIPVisionModelWithProjection.from_pretrained(clip_folder, config=config).save_pretrained(tmp_path)
    x, y = pictures(seed=0), pictures(seed=1)
    assert torch.allclose(clip(tmp_path)(x, y), clip(clip_folder)(x, y))


def test_dino_is_the_cosine_of_class_tokens(vit_folder: Path) -> None:
    x, y = pictures(seed=0), pictures(seed=1)
    scorer = dino(vit_folder)
    assert scorer(x, x).tolist() == pytest.approx([1, 1])
    network = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        vectors = [network(normalised(z, 32, *IMAGENET)).last_hidden_state[:, 0] for z in (x, y)]
    assert scorer(x, y).tolist() == pytest.approx(cosine(*vectors), abs=1e-5)


def test_dinov2_takes_the_crop_and_the_colours_that_its_folder_states(tmp_path: Path) -> None:
    torch.manual_seed(2)
    Dinov2Model(Dinov2Config(**SMALL, image_size=56, patch_size=14, mlp_ratio=2)).save_pretrained(tmp_path)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    network = Dinov2Model.from_pretrained(tmp_path).eval()
    x, y = pictures(seed=0), pictures(seed=1)
    for stated, side, colours in (
        (None, 56, IMAGENET),
        ({"crop_size": {"height": 28, "width": 28}, "image_mean": mean, "image_std": std}, 28, (mean, std)),
        ({"crop_size": 42}, 42, IMAGENET),
    ):
        if stated is not None:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
        with torch.no_grad():
            vectors = [network(normalised(z, side, *colours)).last_hidden_state[:, 0] for z in (x, y)]
        assert dino(tmp_path)(x, y).tolist() == pytest.approx(cosine(*vectors), abs=1e-5)


def test_encoders_that_cannot_be_used(
    clip_folder: Path, vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, bare, foreign, halved = (tmp_path / name for name in ("empty", "bare", "foreign", "halved"))
    for folder in (empty, bare, foreign, halved):
        folder.mkdir()
    for folder in (bare, foreign, halved):
        (folder / "config.json").write_bytes((vit_folder / "config.json").read_bytes())
    (foreign / "model.safetensors").write_bytes((clip_folder / "model.safetensors").read_bytes())
    (halved / "model.safetensors").write_bytes((vit_folder / "model.safetensors").read_bytes()[:999])
    for folder in (tmp_path / "nowhere", empty, bare):
        with pytest.raises(MissingFileError, match=folder.name):
            dino(folder)
    for load, folder, part in (
        (dino, foreign, "tensors missing"),
        (dino, halved, "halved"),
        (dino, clip_folder, "no DINO encoder"),
        (clip, vit_folder, "no CLIP encoder"),
    ):
        with pytest.raises(ForeignCheckpointError, match=part):
            load(folder)
    for stated in ("[", '{"image_mean": [1, 2]}'):
        (vit_folder / "preprocessor_config.json").write_text(stated)
        with pytest.raises(ForeignCheckpointError, match=vit_folder.name):
            dino(vit_folder)
    (vit_folder / "preprocessor_config.json").unlink()
    monkeypatch.setitem(sys.modules, "transformers", None)
    for load, folder in ((clip, clip_folder), (dino, vit_folder)):
        with pytest.raises(MissingExtraError, match=r"stagevar\[text\]"):
            load(folder)
