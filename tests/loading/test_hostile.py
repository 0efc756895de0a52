"""Files that mean harm: nothing outside the target is written or removed, nothing grows without bound."""

from __future__ import annotations

import copy
import json
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stagevar.errors import (
    CheckpointError,
    ForeignCheckpointError,
    MissingFileError,
    ShapeError,
    StagevarError,
    UnknownModelError,
)
from stagevar.families.text_encoders.t5 import T5Encoder
from stagevar.families.tiny import tiny
from stagevar.files import one_name
from stagevar.loading.fill import fill
from stagevar.loading.read import read_state
from stagevar.loading.save import save_model
from stagevar.loading.sources import load, resolve, skeleton

from ..infinity_files import text_encoder

__all__ = ["text_encoder"]


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


@pytest.mark.parametrize("name", [7, None, ["a"], "a/b", "a\nb", "a\x1b[31mb"])
def test_a_model_has_a_name_that_can_be_shown(scenes: Path, name: object) -> None:
    edit(scenes, name=name)
    with pytest.raises(ForeignCheckpointError, match="no name of a model"):
        skeleton(scenes)


@pytest.mark.parametrize("shard", ["..", "../secret.bin", "/etc/passwd", "a/b.bin", ""])
def test_shards_lie_beside_their_index(tmp_path: Path, shard: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(ForeignCheckpointError, match="outside its folder"):
        read_state(tmp_path)


# --- sizes -----------------------------------------------------------------------------------------------------------


def quickly(action: Callable[[], object], kind: type[StagevarError], match: str) -> None:
    began = time.perf_counter()
    with pytest.raises(kind, match=match):
        action()
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    "changes",
    [
        *({"depth": 10**9}, {"text_depth": 10**6}, {"width": 4 * 10**12}, {"grids": list(range(1, 5000))}),
        *({"codes": [1e300]}, {"depth": float("inf")}, {"depth": "6"}, {"depth": True}, {"depth": None}, {"grids": 3}),
        *({"grids": [[1]]}, {"width": 2**19}, {"depth": int("9" * 4000)}, {"depth": -1}, {"other": 1}),
    ],
    ids=lambda changes: str(changes)[:30] if "depth" not in changes else None,
)
def test_a_config_cannot_ask_for_a_network_of_any_size(scenes: Path, changes: dict[str, Any]) -> None:
    config = json.loads((scenes / "config.json").read_text())["config"]
    edit(scenes, config=config | changes)
    quickly(lambda: skeleton(scenes), ForeignCheckpointError, "does not describe a model")
    (scenes / "model.safetensors").unlink()
    quickly(lambda: load(scenes), CheckpointError, r"config\.json|has no model")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("var", {"tokenizer": {"residual_blocks": 500, "multipliers": [1] * 500}}),
        ("var", {"tokenizer": {"convolutions": 0}}),
        ("var", {"tokenizer": {"convolutions": 2**20}}),
        ("var", {"schedules": [[[1, 1], [2, 10**5]]]}),
        ("var", {"schedules": [[[1, 1], [0, 2]]]}),
        ("hart", {"residual_depth": 10**6}),
        ("hart", {"residual_steps": 10**6}),
        ("infinity", {"levels": 2**20, "text_length": 2**20}),
        ("star", {"depth": 2**20}),
        ("switti", {"schedules": []}),
    ],
)
def test_no_part_of_a_network_is_larger_than_its_checkpoint(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    save_model(tiny(family), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    for name, value in changes.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    edit(tmp_path, config=config)
    quickly(lambda: load(tmp_path), ForeignCheckpointError, "does not describe a model")
    (tmp_path / "model.safetensors").unlink()
    quickly(lambda: load(tmp_path), CheckpointError, "does not describe a model|has no model")


def test_a_network_that_its_checkpoint_does_not_fill_is_not_built(scenes: Path) -> None:
    edit(scenes, config=json.loads((scenes / "config.json").read_text())["config"] | {"depth": 300})
    held = (scenes / "model.safetensors").stat().st_size
    quickly(lambda: skeleton(scenes), ForeignCheckpointError, f"more than {held} parameters")


@pytest.mark.parametrize("changes", [{"num_layers": 10**5}, {"d_ff": 10**9}, {"_attn_implementation": "owner/kernel"}])
def test_a_text_encoder_is_bounded_too_and_fetches_no_code(text_encoder: Path, tmp_path: Path, changes: Any) -> None:
    shutil.copytree(text_encoder, tmp_path / "t5")
    edit(tmp_path / "t5", **changes)
    message = "asks for more|asks for the code of 'owner/kernel'"
    quickly(lambda: T5Encoder.from_pretrained(tmp_path / "t5"), ForeignCheckpointError, message)


def test_settings_are_of_a_bounded_length(scenes: Path) -> None:
    edit(scenes, note="x" * 2**20)
    with pytest.raises(ForeignCheckpointError, match="too many"):
        load(scenes)


# --- pickles ---------------------------------------------------------------------------------------------------------


def zipped_again(path: Path, method: int) -> None:
    with zipfile.ZipFile(path) as stored:
        records = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, record in records.items():
            packed.writestr(name, record)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_checkpoint_that_was_zipped_again_is_refused(tmp_path: Path, method: int) -> None:
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "net.pth")
    zipped_again(tmp_path / "net.pth", method)
    quickly(lambda: read_state(tmp_path / "net.pth"), ForeignCheckpointError, "zipped again")


def test_one_that_was_zipped_again_without_compression_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(100)}, tmp_path / "net.pth")
    zipped_again(tmp_path / "net.pth", zipfile.ZIP_STORED)
    assert torch.equal(read_state(tmp_path / "net.pth")["a"], torch.arange(100))


def test_records_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "net.pth")
    with zipfile.ZipFile(tmp_path / "net.pth", "a") as archive:
        archive.filelist += [copy.copy(each) for each in archive.filelist] * 9
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(ForeignCheckpointError):
        read_state(tmp_path / "net.pth")


def test_the_weights_of_a_text_encoder_are_looked_at_as_well(text_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    shutil.copytree(text_encoder, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert T5Encoder.from_pretrained(folder)(["red"])
    zipped_again(folder / "pytorch_model.bin", zipfile.ZIP_DEFLATED)
    with pytest.raises(ForeignCheckpointError, match=r"text encoder .*zipped again"):
        T5Encoder.from_pretrained(folder)
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../secret.bin"}}')
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ForeignCheckpointError, match="outside its folder"):
        T5Encoder.from_pretrained(folder)


class Grown:
    """Calls one of the data types with arguments that would fill the memory."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        (range, (10**11,)),
        (np._core.multiarray.scalar, (np.dtype("V2000000000"),)),  # type: ignore[attr-defined]
        (np._core.multiarray.scalar, (np.dtype("V2000000000"), b"x")),  # type: ignore[attr-defined]
    ],
    ids=str,
)
def test_a_pickle_of_data_does_not_grow(tmp_path: Path, call: tuple[Any, ...]) -> None:
    torch.save({"a": [Grown(*call)] * 3}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError):
        read_state(tmp_path / "net.pth")


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).expand(64, 64), torch.zeros(64, 64).to_sparse(), torch.zeros(64, 64, device="meta")],
    ids=["expanded", "sparse", "meta"],
)
def test_a_tensor_that_holds_fewer_numbers_than_its_shape_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    network = nn.Linear(64, 64, bias=False, device="meta")
    torch.save({"weight": tensor}, tmp_path / "net.pth")
    with pytest.raises(ShapeError, match="weight holds fewer numbers than its shape"):
        fill(network, read_state(tmp_path / "net.pth"))


# --- messages --------------------------------------------------------------------------------------------------------


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
