"""Checkpoints: read without running their code, filled once."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stagevar.errors import ForeignCheckpointError, MissingFileError, ShapeError, UnsafePickleError
from stagevar.loading.fill import fill
from stagevar.loading.read import load_config, read_state


class Tiny(nn.Module):
    """One parameter inside the blocks, two outside, an index buffer and a buffer of real numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 4, bias=False)])
        self.head = nn.Linear(4, 2)
        self.register_buffer("index", torch.arange(5))
        self.register_buffer("gain", torch.ones(2))


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {name: torch.randn(t.shape).to(t.dtype) for name, t in Tiny().state_dict().items()}


def on_meta() -> Tiny:
    with torch.device("meta"):
        return Tiny()


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert message.strip() and "\n" not in message
    return message


# --- reading -----------------------------------------------------------------


def test_safetensors_and_pickles_give_the_same_tensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "new.safetensors")
    torch.save(state, tmp_path / "zip.pth")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    for name in ("new.safetensors", "zip.pth", "legacy.pt"):
        read = read_state(tmp_path / name)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_joined(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    places = {}
    for number, (name, tensor) in enumerate(state.items()):
        places[name] = f"part-{number}.{suffix}"
        write = save_file if suffix == "safetensors" else torch.save
        write({name: tensor}, tmp_path / places[name])
    (tmp_path / f"model.{suffix}.index.json").write_text(json.dumps({"weight_map": places}))
    read = read_state(tmp_path)
    assert all(torch.equal(read[key], state[key]) for key in state)

    (tmp_path / f"part-1.{suffix}").unlink()
    with pytest.raises(MissingFileError, match="lacks 1 of"):
        read_state(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../secret.bin"}}'])
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ForeignCheckpointError):
        read_state(tmp_path)


class Spy:
    """Sets a flag if it is ever unpickled."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return setattr, (Spy, "ran", True)


@pytest.mark.parametrize("value", [Spy(), re.compile("x")])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, value: object) -> None:
    torch.save({"weight": torch.ones(2), "extra": value}, tmp_path / "a.pth")
    with pytest.raises(UnsafePickleError) as error:
        read_state(tmp_path / "a.pth")
    assert "safetensors" in one_line(error) and "a.pth" in one_line(error)
    assert not Spy.ran


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "legacy.pth"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, name: str, share: float) -> None:
    path, tensors = tmp_path / name, {"weight": torch.ones(5000)}
    if name == "a.safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=name == "a.pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ForeignCheckpointError) as error:
        read_state(path)
    assert name in one_line(error)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid", b"<html>", bytes(range(256))])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ForeignCheckpointError):
        read_state(path)


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(ForeignCheckpointError):
        read_state(tmp_path / "a.pth")


def test_missing_weights_are_said_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "a.pth", tmp_path / "a.safetensors"):
        with pytest.raises(MissingFileError):
            read_state(path)


# --- filling -----------------------------------------------------------------


def test_a_network_on_meta_is_filled_frozen_and_in_eval_mode(state: dict[str, Tensor]) -> None:
    tiny = on_meta()
    fill(tiny, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in tiny.state_dict().items())
    assert not tiny.training and not any(p.requires_grad for p in tiny.parameters())
    assert tiny.head.weight.data_ptr() == state["head.weight"].data_ptr()


def test_only_the_blocks_take_the_compute_dtype(state: dict[str, Tensor]) -> None:
    tiny = on_meta()
    fill(tiny, {name: t.half() if t.is_floating_point() else t for name, t in state.items()}, dtype=torch.bfloat16)
    assert tiny.blocks[0].weight.dtype == torch.bfloat16
    assert tiny.head.weight.dtype == tiny.gain.dtype == torch.float32
    assert tiny.index.dtype == torch.int64


def test_names_and_layouts_are_translated(state: dict[str, Tensor]) -> None:
    theirs = {f"net.{name}": tensor for name, tensor in state.items()} | {"ema": torch.ones(1)}
    theirs["net.gain"] = state["gain"].view(1, 2, 1)
    tiny = on_meta()
    fill(
        tiny,
        theirs,
        rename=lambda key: key.removeprefix("net.") if key.startswith("net.") else None,
        reshape=lambda key, tensor: tensor.flatten() if key == "gain" else tensor,
    )
    assert torch.equal(tiny.gain, state["gain"])


def test_missing_and_left_over_tensors_are_counted_and_named(state: dict[str, Tensor]) -> None:
    del state["head.bias"], state["index"]
    state["head.scale"] = torch.ones(1)
    with pytest.raises(ForeignCheckpointError) as error:
        fill(on_meta(), state, source="a.pth")
    message = one_line(error)
    assert "a.pth" in message and "2 of 5 tensors missing" in message and "1 left over" in message
    assert all(name in message for name in ("head.bias", "index", "head.scale"))


def test_a_wrong_shape_is_shown_with_both_shapes(state: dict[str, Tensor]) -> None:
    state["head.weight"] = torch.ones(2, 5)
    with pytest.raises(ShapeError) as error:
        fill(on_meta(), state, reshape=lambda key, tensor: tensor.view(2, 4) if key == "head.weight" else tensor)
    assert "head.weight is (2, 5), expected (2, 4)" in one_line(error)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_other_than_real_numbers_are_not_cast(state: dict[str, Tensor], dtype: torch.dtype) -> None:
    state["head.weight"] = torch.ones(2, 4, dtype=dtype)
    with pytest.raises(ShapeError, match=r"head\.weight holds .*, not real numbers"):
        fill(on_meta(), state)


def test_two_tensors_for_one_place_are_refused(state: dict[str, Tensor]) -> None:
    state["alias"] = state["gain"]
    with pytest.raises(ForeignCheckpointError, match="left over"):
        fill(on_meta(), state, rename=lambda key: "gain" if key == "alias" else key)


def test_a_buffer_that_no_checkpoint_holds_must_not_stay_on_meta(state: dict[str, Tensor]) -> None:
    tiny = on_meta()
    tiny.register_buffer("waves", torch.empty(2, device="meta"), persistent=False)
    with pytest.raises(ValueError, match="waves"):
        fill(tiny, state)


# --- settings ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [(None, MissingFileError), *((text, ForeignCheckpointError) for text in ("{", "[1]", "[" * 100_000))],
)
def test_a_bad_config_is_named(tmp_path: Path, text: str | None, kind: type[Exception]) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(kind, match=r"config\.json"):
        load_config(tmp_path)
