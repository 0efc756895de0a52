"""Networks inside training files: under which keys they are found, which one is taken, what wrappers are taken off."""

from __future__ import annotations

import argparse
import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stagevar.errors import ForeignCheckpointError, UnsafePickleError
from stagevar.loading.nesting import choose, nests, unwrapped
from stagevar.loading.read import read_state

STATE = {"a.weight": torch.ones(2), "b.bias": torch.zeros(3)}


def wanted(name: str) -> bool:
    return name in STATE


@pytest.mark.parametrize(
    "path",
    [(), ("model",), ("state_dict",), ("model_state_dict",), ("module",), ("trainer", "gpt_wo_ddp"), ("x", "y", "z")],
    ids=".".join,
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "module._orig_mod."])
def test_a_network_is_found_under_any_keys_and_wrappers(path: tuple[str, ...], prefix: str) -> None:
    state: dict[str, Any] = {prefix + name: tensor for name, tensor in STATE.items()} | {"step": 7}
    for key in reversed(path):
        state = {key: state, "optimizer": {"momentum": torch.ones(1)}, "epoch": 3}
    found = choose(state, ("trainer", "gpt_fsdp"), wanted, "it")
    assert found is not None and found.path == path and found.tensors.keys() == STATE.keys()


def test_wrappers_are_taken_off_inside_of_names_too() -> None:
    name = "module.blocks.0._checkpoint_wrapped_module.attn._fsdp_wrapped_module.weight"
    assert unwrapped(name) == "blocks.0.attn.weight"
    assert unwrapped("submodule.weight") == "submodule.weight"


def test_the_usual_keys_come_first_then_a_network_before_its_average() -> None:
    average = {name: 2 * tensor for name, tensor in STATE.items()}
    both: dict[str, Any] = {"trainer": {"gpt_ema": average, "gpt_fsdp": STATE, "gpt_other": dict(average)}}
    found = choose(both, ("trainer", "gpt_fsdp"), wanted, "it")
    assert found is not None and str(found) == "trainer.gpt_fsdp"
    found = choose({"model": STATE, "model_ema": average}, (), wanted, "it")
    assert found is not None and found.path == ("model",)
    found = choose({"model_ema": average}, (), wanted, "it")
    assert found is not None and found.path == ("model_ema",), "an average alone is used"


def test_networks_that_cannot_be_told_apart_are_named() -> None:
    with pytest.raises(ForeignCheckpointError, match=r"it holds the network 2 times, under one, two"):
        choose({"one": STATE, "two": STATE}, (), wanted, "it")


def test_a_file_without_the_network_holds_none() -> None:
    assert choose({"other": torch.ones(1)}, (), wanted, "it") is None
    deep: dict[str, Any] = STATE
    for _ in range(9):
        deep = {"deeper": deep}
    assert not list(nests(deep))


def test_data_beside_the_weights_is_read_and_code_is_not(tmp_path: Path) -> None:
    beside = {
        "loss": np.float64(3.25),
        "it": np.int64(7),
        "curve": np.arange(3),
        "counts": collections.defaultdict(int, {"a": 1}),
        "args": argparse.Namespace(depth=16, out=Path("runs") / "one"),
        "order": collections.OrderedDict(a=1),
    }
    torch.save({"model": STATE, **beside}, tmp_path / "net.pth")
    state = read_state(tmp_path / "net.pth")
    assert state["loss"] == 3.25 and state["args"].depth == 16 and state["curve"].tolist() == [0, 1, 2]
    torch.save({"model": STATE, "hook": print}, tmp_path / "code.pth")
    with pytest.raises(UnsafePickleError, match="print"):
        read_state(tmp_path / "code.pth")


def test_files_of_trainers_are_no_weights(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    other: dict[str, Tensor] = {"state": torch.ones(1)}
    for name in (
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "random_states_0.pt",
        "training_args.bin",
        "scaler.pt",
    ):
        torch.save(other, tmp_path / name)
    assert read_state(tmp_path).keys() == STATE.keys()
