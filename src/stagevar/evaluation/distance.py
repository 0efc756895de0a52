"""How far a run's pictures are from photographs (Frechet distance), and from those of another run (self-distance)."""

from __future__ import annotations

import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stagevar.errors import MissingExtraError, MissingFileError, OptionError, StagevarError, first_line
from stagevar.evaluation.suite import Scores
from stagevar.measure.likeness.fidelity import psnr, ssim
from stagevar.record import read_record

TORCHSCRIPT = "inception-2015-12-05.pt"
"""Name of the weights that clean-fid reads; torch-fidelity has others."""


def require_measure(photographs: Path, features: Path) -> None:
    """Raise unless the Frechet distance to photographs can be measured.

    Raises:
        MissingFileError: the folder or the weights are not there.
        MissingExtraError: the package is not installed.
    """
    if not photographs.is_dir():
        raise MissingFileError(f"there is no folder {photographs}")
    if not features.is_file():
        raise MissingFileError(f"there is no file {features}")
    clean = features.name == TORCHSCRIPT
    if find_spec("cleanfid" if clean else "torch_fidelity") is None:
        raise MissingExtraError("clean-fid" if clean else "torch-fidelity", "fid")


def frechet(pictures: Path, photographs: Path, features: Path) -> tuple[Scores, str]:
    """Frechet distance of two folders, by clean-fid if the weights are its TorchScript file, else by torch-fidelity.

    Args:
        pictures, photographs: folders, with those inside them.
        features: weights of the Inception network.

    Returns:
        The distance, and what computed it.

    Raises:
        MissingFileError: a folder or the weights are not there.
        MissingExtraError: the package is not installed.
        StagevarError: it failed.
    """
    for path in (pictures, photographs, features):
        if not path.exists():
            raise MissingFileError(f"there is no {path}")
    package, measure = ("clean-fid", _clean) if features.name == TORCHSCRIPT else ("torch-fidelity", _fidelity)
    try:
        value = measure(str(pictures), str(photographs), features)
    except ImportError:
        raise MissingExtraError(package, "fid") from None
    except Exception as error:
        raise StagevarError(f"{package} failed: {first_line(error)}") from error
    return Scores({"fid": value}), f"{package} {version(package)} against {photographs}"


def _fidelity(pictures: str, photographs: str, features: Path) -> float:
    import torch_fidelity

    found: dict[str, Any] = torch_fidelity.calculate_metrics(
        input1=pictures,
        input2=photographs,
        fid=True,
        samples_find_deep=True,
        feature_extractor_weights_path=str(features),
        cuda=torch.cuda.is_available(),
        verbose=False,
    )
    return float(found["frechet_inception_distance"])


def _clean(pictures: str, photographs: str, features: Path) -> float:
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = InceptionV3W(str(features.parent), download=False, resize_inside=False).to(device)
    readers = min(os.cpu_count() or 1, 8)
    found = fid.compute_fid(
        pictures, photographs, custom_feat_extractor=network, num_workers=readers, device=device, verbose=False
    )
    return float(found)


def self_distance(drawn: Path, others: Path) -> tuple[Scores, int]:
    """Mean PSNR and SSIM of a run's pictures to those of another run with the same prompts, seeds and sizes.

    Args:
        drawn, others: folders of their jobs.

    Returns:
        The means, and how many pictures they are of.

    Raises:
        OptionError: they have no picture in common, or pictures of one id were drawn with other prompts or seeds.
        MissingFileError, ForeignCheckpointError: a picture cannot be read.
    """
    names = sorted(path.name for path in drawn.glob("*.png") if (others / path.name).exists())
    if not names:
        raise OptionError(f"{others} has no picture of an id that {drawn} has")
    values = []
    for name in names:
        (one, record), (other, reference) = read_record(drawn / name), read_record(others / name)
        if [record[key] for key in ("prompt", "seed")] != [reference[key] for key in ("prompt", "seed")]:
            raise OptionError(f"{name} was drawn with another prompt or seed in {others}; nothing can be compared")
        if one.size != other.size:
            raise OptionError(f"{name} has another size in {others}")
        pair = _tensor(one), _tensor(other)
        values.append((psnr(*pair).item(), ssim(*pair).item()))
    means = np.mean(values, 0)
    return Scores({"ssim": float(means[1]), "psnr": float(means[0])}), len(names)


def _tensor(image: Image.Image) -> Tensor:
    """(1, 3, height, width) in [0, 1]."""
    return torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None]
