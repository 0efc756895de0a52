"""Folders and files of models that are damaged, or given in place of others: it is said which file, and what to do."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stagevar.errors import CheckpointError, ForeignCheckpointError, MissingFileError, OptionError
from stagevar.families.tiny import tiny
from stagevar.loading.read import read_state
from stagevar.loading.save import save_model
from stagevar.loading.sources import load, resolve, skeleton
from stagevar.loading.where import Where

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny("scenes"), tmp_path / "own")
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"name"', '"name": "other", "name"', 1), "it gives 'name' twice"),
        (lambda text: text.replace('"name"', '"nmae": 1, "name"', 1), "has 'nmae', which this version"),
        (lambda text: text.replace('"top_p": 1.0', '"top_p": NaN'), "top_p is nan, not float"),
        (lambda text: '{"a":' * 10**5, "nested too deep"),
        (lambda text: text[:99], "is not JSON that can be read .*; copy or download it again"),
    ],
)
def test_a_config_is_read_strictly(folder: Path, damage: Callable[[str], str], message: str) -> None:
    (folder / CONFIG).write_text(damage((folder / CONFIG).read_text()))
    with pytest.raises(ForeignCheckpointError, match=rf"config\.json .*{message}"):
        load(folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"model\.safetensors is truncated or no checkpoint: it holds nothing"),
        (b"<html>", r"model\.safetensors is truncated .*a web page"),
        (
            b"\0" * 2000,
            r"more than 2000 parameters, and model\.safetensors has 2000 bytes; copy or download both again",
        ),
    ],
)
def test_short_weights_are_not_blamed_on_the_config(folder: Path, data: bytes, message: str) -> None:
    (folder / WEIGHTS).write_bytes(data)
    for action in (load, skeleton):
        with pytest.raises(ForeignCheckpointError, match=message):
            action(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_neither_read_nor_waited_for(folder: Path, name: str, put: Callable[[Path], None]) -> None:
    (folder / name).unlink()
    put(folder / name)
    with pytest.raises(CheckpointError, match=r"config\.json that can be read|model\.safetensors"):
        load(folder)


def changed(folder: Path, name: str, number: float) -> None:
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / WEIGHTS).items()}
    tensors[name].view(-1)[-1] = number
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize("name", ["blocks.0.attention.proj.weight", "tokenizer.codebook"])
@pytest.mark.parametrize("number", [math.nan, -math.inf])
@pytest.mark.parametrize("quantize", ["", "int8"])
def test_weights_that_are_no_numbers_are_refused(folder: Path, name: str, number: float, quantize: str) -> None:
    changed(folder, name, number)
    with pytest.raises(ForeignCheckpointError, match=rf"{name} of .*own holds NaN or infinity"):
        load(folder, quantize=quantize)


def test_weights_that_a_dtype_cannot_hold_are_refused_in_that_dtype(folder: Path) -> None:
    changed(folder, "blocks.0.attention.proj.weight", 1e5)
    with pytest.raises(OptionError, match="has numbers that float16 cannot hold; load it in bfloat16"):
        load(folder, dtype=torch.float16)
    assert load(folder).blocks and load(folder, dtype=torch.bfloat16).blocks


def test_numbers_whose_sum_is_too_large_are_numbers(folder: Path) -> None:
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / WEIGHTS).items()}
    tensors["blocks.0.attention.proj.weight"].fill_(6e4)
    save_file(tensors, folder / WEIGHTS)
    assert load(folder, dtype=torch.float16).blocks


def test_a_link_to_nothing_is_said_to_be_one(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("elsewhere")
    with pytest.raises(MissingFileError, match=r"model\.safetensors is a link that leads nowhere"):
        load(folder)


def test_a_tensor_lies_in_one_shard(tmp_path: Path) -> None:
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name, own in zip(names, ("a", "b"), strict=True):
        save_file({own: torch.zeros(2), "both": torch.zeros(2)}, tmp_path / name)
    index = {"weight_map": {"a": names[0], "b": names[1], "both": names[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ForeignCheckpointError, match=r"00002-of-00002\.safetensors holds both, as another shard does"):
        read_state(tmp_path)


def test_a_part_of_a_model_says_where_the_whole_is(folder: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        with pytest.raises(OptionError, match=f"{name} is a part of the model in {folder}; give that folder"):
            resolve(folder / name)
    with pytest.raises(OptionError, match="is a model of its own; give it as the model, without weights"):
        resolve("var-d16", folder)


def test_a_folder_has_no_key(folder: Path) -> None:
    for given in ((f"{folder}#ema", None), ("var-d16", f"{folder.parent}#ema")):
        with pytest.raises(OptionError, match="a folder has no key 'ema'"):
            resolve(*given)


def test_what_lies_here_has_no_revision(folder: Path) -> None:
    for source in ("scenes", str(folder), str(folder / WEIGHTS)):
        with pytest.raises(OptionError, match="has no revision 'v2'; leave revision out"):
            resolve(source, where=Where(revision="v2"))
