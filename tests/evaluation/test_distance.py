"""The Frechet distance to photographs, by stand-ins of the packages that measure it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stagevar.errors import MissingExtraError
from stagevar.evaluation import distance


def test_the_frechet_distance_is_that_of_the_package_with_the_users_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights := tmp_path / "inception.pth").write_bytes(b"x")
    if "torch_fidelity" not in sys.modules:
        with pytest.raises(MissingExtraError, match="torch-fidelity is not installed"):
            distance.frechet(tmp_path, tmp_path, weights)
    asked: dict[str, Any] = {}

    def calculate(**settings: Any) -> dict[str, float]:
        asked.update(settings)
        return {"frechet_inception_distance": 9.8}

    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace(calculate_metrics=calculate))
    monkeypatch.setattr(distance, "version", lambda name: "0.4.0")
    scores, by = distance.frechet(tmp_path / "..", tmp_path, weights)
    assert scores.values == {"fid": 9.8} and by == f"torch-fidelity 0.4.0 against {tmp_path}"
    assert asked["feature_extractor_weights_path"] == str(weights) and asked["samples_find_deep"]


def test_with_the_weights_of_clean_fid_it_is_clean_fid_that_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights := tmp_path / distance.TORCHSCRIPT).write_bytes(b"x")
    if "cleanfid" not in sys.modules:
        with pytest.raises(MissingExtraError, match="clean-fid is not installed"):
            distance.frechet(tmp_path, tmp_path, weights)
    asked: dict[str, Any] = {}

    def compute(pictures: str, photographs: str, **settings: Any) -> float:
        asked.update(settings, pictures=pictures, photographs=photographs)
        return 12.5

    class InceptionV3W(torch.nn.Module):
        def __init__(self, folder: str, download: bool, resize_inside: bool) -> None:
            super().__init__()
            assert (folder, download, resize_inside) == (str(tmp_path), False, False)

    fid = SimpleNamespace(compute_fid=compute)
    monkeypatch.setitem(sys.modules, "cleanfid", SimpleNamespace(fid=fid))
    monkeypatch.setitem(sys.modules, "cleanfid.fid", fid)
    monkeypatch.setitem(sys.modules, "cleanfid.inception_torchscript", SimpleNamespace(InceptionV3W=InceptionV3W))
    monkeypatch.setattr(distance, "version", lambda name: "0.1.35")
    scores, by = distance.frechet(tmp_path / "..", tmp_path, weights)
    assert scores.values == {"fid": 12.5} and by == f"clean-fid 0.1.35 against {tmp_path}"
    assert isinstance(asked["custom_feat_extractor"], InceptionV3W)
    assert asked["pictures"] == str(tmp_path / "..") and asked["photographs"] == str(tmp_path)
