"""Files that mean harm: nothing outside the target is written or removed, nothing grows without bound."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from stagevar.errors import (
    ForeignCheckpointError,
    MissingFileError,
    StagevarError,
    UnknownModelError,
)
from stagevar.families.tiny import tiny
from stagevar.files import one_name
from stagevar.loading.download import _discard
from stagevar.loading.read import read_state
from stagevar.loading.save import save_model
from stagevar.loading.sources import resolve, skeleton


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    save_model(tiny("scenes"), folder)
    return folder


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\\b", "a\0b", "x" * 300])
def test_what_leads_elsewhere_is_no_name(name: str) -> None:
    assert not one_name(name)


@pytest.mark.parametrize("shard", ["..", "../secret.bin", "/etc/passwd", "a/b.bin", ""])
def test_shards_lie_beside_their_index(tmp_path: Path, shard: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(ForeignCheckpointError, match="outside its folder"):
        read_state(tmp_path)


# --- the hub's cache -------------------------------------------------------------------------------------------------


def test_a_link_out_of_the_cache_is_replaced_and_never_its_target(tmp_path: Path) -> None:
    mine = tmp_path / "mine.pth"
    mine.write_bytes(b"my own weights")
    storage = tmp_path / "models--owner--name"
    for folder in ("snapshots/main", "blobs"):
        (storage / folder).mkdir(parents=True)
    link, own = storage / "snapshots/main/net.pth", storage / "blobs/abc"
    link.symlink_to(mine)
    _discard(link)
    assert mine.read_bytes() == b"my own weights" and not link.is_symlink()
    own.touch()
    link.symlink_to(own)
    _discard(link)
    assert not own.exists() and not link.is_symlink()


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 10**9},
        {"text_depth": 10**6},
        {"width": 4 * 10**12},
        {"grids": list(range(1, 5000))},
        {"codes": [1e300]},
        {"depth": float("inf")},
    ],
    ids=str,
)
def test_a_config_cannot_ask_for_a_network_of_any_size(scenes: Path, changes: dict[str, Any]) -> None:
    config = json.loads((scenes / "config.json").read_text())["config"]
    edit(scenes, config=config | changes)
    began = time.perf_counter()
    with pytest.raises(ForeignCheckpointError, match="does not describe a model"):
        skeleton(scenes)
    assert time.perf_counter() - began < 2


def test_a_checkpoint_that_was_zipped_again_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "net.pth")
    with (
        zipfile.ZipFile(tmp_path / "net.pth") as stored,
        zipfile.ZipFile(tmp_path / "again.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    with pytest.raises(ForeignCheckpointError, match="zipped again"):
        read_state(tmp_path / "again.pth")


def test_messages_are_short_whatever_the_input() -> None:
    for action in (lambda: resolve("x" * 10**6), lambda: resolve("scenes", "w" * 10**6)):
        with pytest.raises(StagevarError) as caught:
            action()
        assert len(str(caught.value)) < 1500
    assert len(str(MissingFileError("y" * 10**6))) < 1500


# --- what is not there -----------------------------------------------------------------------------------------------


def test_missing_weights_are_missing_and_no_repository(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="there is no folder or file of weights"):
        resolve("var-d16", "weights/var")


def test_the_nearest_model_is_suggested() -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean infinity-2b\?"):
        resolve("infinty-2b")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer"),
        ("<!DOCTYPE html>", "web page"),
        ("", "nothing"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_stands_in_place_of_weights_is_named(tmp_path: Path, text: str, what: str, suffix: str) -> None:
    (tmp_path / f"net.{suffix}").write_text(text)
    with pytest.raises(ForeignCheckpointError, match=what):
        read_state(tmp_path / f"net.{suffix}")
