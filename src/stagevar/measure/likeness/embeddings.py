"""Semantic likeness by pretrained encoders: the cosine of two pictures' CLIP embeddings, or of their DINO vectors.

Encoders are folders in the layout of transformers; nothing is downloaded. A picture is resized whole to the encoder's
square: a crop, as published for near-square photographs, would miss most of a 3:1 picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.errors import CheckpointError, ForeignCheckpointError, MissingExtraError, MissingFileError, first_line
from stagevar.families.text_encoders.pretrained import load_network
from stagevar.measure.likeness.scorer import Scorer
from stagevar.quiet import errors_only

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of the colours that a network was trained on."""

CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

DINO_KINDS = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
"""Values of ``model_type`` in the configurations of DINO encoders."""


@dataclass(frozen=True, slots=True)
class Embedder:
    """A ``Scorer``: cosine of the angle between two pictures' vectors.

    Attributes:
        encode: maps normalised pictures (n, 3, side, side) to vectors (n, C).
        side: height and width in pixels of the pictures that it takes.
        statistics: mean and standard deviation of the colours that it was trained on.
        device: device of the encoder.
    """

    encode: Callable[[Tensor], Tensor]
    side: int
    statistics: Statistics
    device: torch.device

    def __call__(self, pictures: Tensor, references: Tensor) -> Tensor:
        return F.cosine_similarity(self.vectors(pictures), self.vectors(references)).cpu()

    @torch.inference_mode()
    def vectors(self, pictures: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] to (n, C)."""
        x = pictures.to(self.device, torch.float32)
        if x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = x.new_tensor(self.statistics)[..., None, None]
        return self.encode((x - mean) / std).float()


def clip(folder: Path, device: str | torch.device = "cpu") -> Scorer:
    """Likeness by CLIP's image embeddings, for a folder of a whole CLIP model or of its vision half.

    Raises:
        MissingExtraError: transformers is not installed.
        MissingFileError: no such folder, or files missing in it.
        ForeignCheckpointError: another network, or damaged files.
    """
    config = _config(folder, "CLIP", ("clip", "clip_vision_model"))
    if config.model_type == "clip":
        config.vision_config.projection_dim = config.projection_dim  # the half's own is often left at its default
        config = config.vision_config
    network = _network("CLIPVisionModelWithProjection", folder, config, "CLIP", device)
    statistics = _statistics(_preparation(folder), CLIP, folder)
    return Embedder(lambda x: network(pixel_values=x).image_embeds, config.image_size, statistics, torch.device(device))


def dino(folder: Path, device: str | torch.device = "cpu") -> Scorer:
    """Likeness by the class token behind the last norm of a DINO, DINOv2 or DINOv3 vision transformer.

    Raises:
        as ``clip``.
    """
    config = _config(folder, "DINO", DINO_KINDS)
    network = _network("AutoModel", folder, config, "DINO", device)
    preparation = _preparation(folder)
    statistics = _statistics(preparation, IMAGENET, folder)
    side = config.image_size if config.model_type == "vit" else _crop(preparation, config.image_size)
    return Embedder(lambda x: network(pixel_values=x).last_hidden_state[:, 0], side, statistics, torch.device(device))


def _config(folder: Path, kind: str, types: tuple[str, ...]) -> Any:
    """The configuration in a folder, if it is that of a network of these types."""
    try:
        from transformers import AutoConfig
    except ImportError:
        raise MissingExtraError("transformers", "text") from None
    if not (folder / "config.json").is_file():
        raise MissingFileError(
            f"{kind} encoder {folder}: no folder with a config.json; give one with it and the weights"
        )
    try:
        with errors_only("transformers"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except OSError as error:
        raise MissingFileError(f"{kind} encoder {folder}: {first_line(error)}") from error
    except Exception as error:  # whatever a broken file makes transformers raise
        raise ForeignCheckpointError(f"{kind} encoder {folder}: {first_line(error)}") from error
    if config.model_type not in types:
        raise ForeignCheckpointError(
            f"{folder} holds a network of type {config.model_type!r}, which is no {kind} encoder ({', '.join(types)})"
        )
    return config


def _network(name: str, folder: Path, config: Any, kind: str, device: str | torch.device) -> Any:
    """The network of a folder in float32 by the name of its class in transformers, frozen."""
    import transformers

    try:
        network = load_network(getattr(transformers, name), folder, config=config, dtype=torch.float32)
    except CheckpointError as error:
        raise type(error)(f"{kind} encoder {folder}: {error}; is it a {kind} encoder?") from None
    except OSError as error:
        raise MissingFileError(f"{kind} encoder {folder}: {first_line(error)}") from error
    except Exception as error:  # whatever a broken file makes transformers raise
        raise ForeignCheckpointError(f"{kind} encoder {folder}: {first_line(error)}") from error
    return network.to(device)


def _preparation(folder: Path) -> Mapping[str, Any]:
    """How the folder says that pictures are prepared; empty if it does not."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ForeignCheckpointError(f"{path} cannot be read ({first_line(error)})") from None
    return found if isinstance(found, dict) else {}


def _statistics(preparation: Mapping[str, Any], usual: Statistics, folder: Path) -> Statistics:
    """Mean and deviation of the colours as the folder states them, else the usual ones."""
    mean, std = (preparation.get(name, value) for name, value in zip(("image_mean", "image_std"), usual, strict=True))
    try:
        (a, b, c), (x, y, z) = mean, std
        return (float(a), float(b), float(c)), (float(x), float(y), float(z))
    except (TypeError, ValueError):
        raise ForeignCheckpointError(f"{folder}: image_mean and image_std must be three numbers each") from None


def _crop(preparation: Mapping[str, Any], usual: int) -> int:
    """Side of the square that pictures are cropped to, by a number or by height and width."""
    crop = preparation.get("crop_size", usual)
    side = crop.get("height", usual) if isinstance(crop, dict) else crop
    return side if isinstance(side, int) and side > 0 else usual
