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
from stagevar.loading.nesting import find, nests, unwrapped
from stagevar.loading.read import read_state

STATE = {"a.weight": torch.ones(2), "b.bias": torch.zeros(3)}


def path_of(state: Any, **options: Any) -> str:
    found = find(state, STATE.__contains__, **options)
    assert found is not None and found[0].tensors.keys() == STATE.keys()
    return found[0].path


def nested(state: Any, *path: str) -> Any:
    for key in reversed(path):
        state = {key: state, "optimizer": {"a": torch.ones(1), "state": {0: torch.ones(1)}}, "epoch": 3}
    return state


@pytest.mark.parametrize(
    "path",
    [(), ("model",), ("state_dict",), ("model_state_dict",), ("module",), ("trainer", "gpt_wo_ddp"), ("x", "y", "z")],
    ids=".".join,
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "module._orig_mod."])
def test_a_network_is_found_under_any_keys_and_wrappers(path: tuple[str, ...], prefix: str) -> None:
    state = nested({prefix + name: tensor for name, tensor in STATE.items()} | {"step": 7}, *path)
    assert path_of(state, usual="trainer.gpt_fsdp") == ".".join(path)


@pytest.mark.parametrize("prefix", ["model", "net.gpt", "var"])
def test_the_beginning_of_all_names_is_a_key_like_others(prefix: str) -> None:
    others = {"vae.a.weight": torch.ones(1), "lpips.x": torch.ones(1)}
    state = nested({f"{prefix}.{name}": tensor for name, tensor in STATE.items()} | others, "state_dict")
    assert path_of(state) == f"state_dict.{prefix}"


def test_the_files_own_names_are_kept() -> None:
    found = find({"model": {f"module.gpt.{name}": tensor for name, tensor in STATE.items()}}, STATE.__contains__)
    assert found is not None
    assert found[0].keys == {name: f"model.module.gpt.{name}" for name in STATE}


def test_wrappers_are_taken_off_inside_of_names_too() -> None:
    name = "module.blocks.0._checkpoint_wrapped_module.attn._fsdp_wrapped_module.weight"
    assert unwrapped(name) == "blocks.0.attn.weight"
    assert unwrapped("submodule.weight") == "submodule.weight"


AVERAGE = {name: 2 * tensor for name, tensor in STATE.items()}


def test_the_usual_keys_come_first_then_a_network_before_its_average() -> None:
    both = {"trainer": {"gpt_ema": AVERAGE, "gpt_fsdp": STATE, "gpt_other": dict(AVERAGE)}}
    assert path_of(both, usual="trainer.gpt_fsdp") == "trainer.gpt_fsdp"
    assert path_of({"model": STATE, "model_ema": AVERAGE}) == "model"
    assert path_of({"model_ema": AVERAGE}) == "model_ema", "an average alone is used"
    assert path_of({**STATE, **{f"ema.{name}": tensor for name, tensor in AVERAGE.items()}}) == ""


@pytest.mark.parametrize("chosen", ["trainer.gpt_ema_fsdp", "gpt_ema_fsdp"])
def test_a_key_can_be_chosen(chosen: str) -> None:
    both = {"trainer": {"gpt_ema_fsdp": AVERAGE, "gpt_fsdp": STATE}}
    assert path_of(both, usual="trainer.gpt_fsdp", chosen=chosen) == "trainer.gpt_ema_fsdp"
    with pytest.raises(ForeignCheckpointError, match=r"no such network under 'gpt', only trainer\.gpt_ema_fsdp"):
        find(both, STATE.__contains__, chosen="gpt")


def test_others_that_hold_the_network_are_told() -> None:
    found = find({"ema": AVERAGE, "model": STATE, "half": dict([*STATE.items()][:1])}, STATE.__contains__)
    assert found is not None and found[1] == ["ema"]


def test_networks_that_cannot_be_told_apart_are_named() -> None:
    with pytest.raises(ForeignCheckpointError, match="holds the network 2 times, under one, two"):
        find({"one": STATE, "two": dict(STATE)}, STATE.__contains__)
    assert path_of({"one": STATE, "two": STATE}) == "one", "the same tensors under two keys are one network"


def test_what_is_no_network_of_the_kind_is_left_alone() -> None:
    assert find({"other": torch.ones(1)}, STATE.__contains__) is None
    assert find(nested(STATE, *"abcdefghijk"), STATE.__contains__) is None, "too deep"
    echo: dict[str, Any] = {"model": STATE}
    echo["again"] = echo
    assert path_of(echo) == "model"
    doubled: dict[str, Any] = STATE
    for _ in range(100):
        doubled = {"a": doubled, "b": doubled}
    assert len(list(nests({"x": doubled, "model": STATE}))) == 1


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
