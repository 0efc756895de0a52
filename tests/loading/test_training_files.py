"""Files that users trained and saved themselves, for every family with published weights: found, read and told."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import CheckpointError, ForeignCheckpointError, MissingFileError, ShapeError, UnknownModelError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.infinity.network import Infinity
from stagevar.families.tiny import tiny
from stagevar.loading.fill import fill
from stagevar.loading.sources import load, resolve

from ..families.test_hart_residual import theirs as hart_parts
from ..families.test_star_second_stage import official as star_parts
from ..families.test_switti import official as switti_parts
from ..families.var_parts import official as var_parts
from ..infinity_files import official as infinity_parts
from ..infinity_files import tiny_config

State = dict[str, Tensor]


@dataclass
class Own:
    """A model that a user trained: its row, and its tensors under published names."""

    name: str
    model: ScaleModel
    network: State
    tokenizer: State


def an_infinity() -> ScaleModel:
    with torch.device("meta"):
        model = Infinity(tiny_config("infinity-2b"), "infinity-2b")
    network, tokenizer = infinity_parts("infinity-2b")
    state = {f"infinity.{k}": t for k, t in network.items()} | {f"vae.{k}": t for k, t in tokenizer.items()}
    fill(model, state, model.checkpoint_names.rename, model.checkpoint_names.reshape)
    return model


ROWS: Mapping[str, tuple[str, Callable[[], ScaleModel], Callable[[Any], tuple[State, State]]]] = {
    "var": ("var-d16", lambda: tiny("var", 5), var_parts),
    "infinity": ("infinity-2b", an_infinity, lambda _: infinity_parts("infinity-2b")),
    "star": ("star-256", lambda: tiny("star", 5), star_parts),
    "switti": ("switti", lambda: tiny("switti", 5), switti_parts),
    "hart": ("hart-0.7b", lambda: tiny("hart", 5), hart_parts),
}


@pytest.fixture(params=ROWS)
def own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Own:
    """A tiny model; the table of sizes describes it, and nothing can be downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    name, make, parts = ROWS[request.param]
    model, sizes = make(), FAMILIES[request.param].sizes
    row = replace(sizes[name], config=model.config, defaults=model.defaults)
    monkeypatch.setitem(sizes, name, row)  # type: ignore[arg-type]
    network, tokenizer = (
        {key: t.contiguous() for key, t in state.items() if not key.startswith("disc.")} for state in parts(model)
    )
    return Own(name, model, network, tokenizer)


def same(found: ScaleModel, model: ScaleModel) -> bool:
    state, want = found.state_dict(), model.state_dict()
    return state.keys() == want.keys() and all(torch.equal(state[key], want[key]) for key in want)


def wrapped(state: Mapping[str, Tensor], prefix: str) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


NESTED: Mapping[str, Callable[[State, State], dict[str, Any]]] = {
    "trainer": lambda n, t: {"trainer": {"var_wo_ddp": n, "vae_local": t, "var_opt": {"state": {}}}, "epoch": 3},
    "no fsdp": lambda n, t: {"trainer": {"gpt_wo_ddp": n, "vae_local": t, "gpt_opt": {}}, "args": {}},
    "fsdp": lambda n, t: {"trainer": {"gpt_fsdp": wrapped(n, "_fsdp_wrapped_module."), "vae_local": t}},
    "lightning": lambda n, t: {"state_dict": wrapped(n, "model.") | wrapped(t, "vqvae."), "global_step": 3},
    "deepspeed": lambda n, t: {"module": wrapped(n, "module."), "vae": {"model": t}},
    "compiled": lambda n, t: {"model_state_dict": wrapped(n, "_orig_mod."), "ae": wrapped(t, "module.")},
    "flat": lambda n, t: wrapped(n, "gpt.") | wrapped(t, "vae."),
    "average": lambda n, t: {"gpt_ema_fsdp": n, "tokenizer": t},
    "all": lambda n, t: n | wrapped(t, "tokenizer_of_training."),
}


@pytest.mark.parametrize("form", NESTED)
def test_network_and_tokenizer_are_found_in_one_file(own: Own, form: str, tmp_path: Path) -> None:
    torch.save(NESTED[form](own.network, own.tokenizer), tmp_path / "ar-ckpt-best.pth")
    assert same(load(own.name, weights=tmp_path / "ar-ckpt-best.pth", text_encoder=False), own.model)
    assert same(load(own.name, weights=tmp_path, text_encoder=False), own.model), "the only weights of a folder"
    meant = resolve(own.name, tmp_path)
    assert len(meant.places()) == 1 + len(meant.text) * len(meant.family.text_folders), "no tokenizer is looked for"


def test_the_tokenizer_of_the_training_is_taken_before_another(own: Own, tmp_path: Path) -> None:
    other = {key: t + 1 if t.is_floating_point() else t for key, t in own.tokenizer.items()}
    size = FAMILIES[own.model.family].sizes[own.name]
    path = tmp_path / (size.files[1].path or "x").rstrip("/")
    torch.save(other, path.with_suffix(".pth"))
    torch.save({"trainer": {"x": own.network, "vae_local": own.tokenizer}}, tmp_path / "mine.pt")
    assert same(load(own.name, weights=tmp_path / "mine.pt", text_encoder=False), own.model)


def test_a_tokenizer_in_part_is_named_and_not_mixed(own: Own, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = dict([*own.tokenizer.items()][3:])
    torch.save({"trainer": {"x": own.network, "vae_local": part}}, tmp_path / "mine.pt")
    with caplog.at_level(logging.WARNING), pytest.raises(MissingFileError, match="downloads are off"):
        load(own.name, weights=tmp_path / "mine.pt", text_encoder=False)
    assert re.search(r"the tokenizer under trainer\.vae_local(\.vae)? lacks", caplog.text)


def test_an_average_beside_the_network_is_named_and_can_be_chosen(
    own: Own, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    average = {key: t * 2 if t.is_floating_point() else t for key, t in own.network.items()}
    path = tmp_path / "mine.pt"
    torch.save({"trainer": {"gpt_fsdp": own.network, "gpt_ema_fsdp": average, "vae_local": own.tokenizer}}, path)
    with caplog.at_level(logging.WARNING):
        plain = load(own.name, weights=path, text_encoder=False)
    assert (
        same(plain, own.model) and "trainer.gpt_ema_fsdp" in caplog.text and "trainer.gpt_fsdp is read" in caplog.text
    )
    chosen = load(own.name, weights=f"{path}#gpt_ema_fsdp", text_encoder=False)
    assert not same(chosen, own.model)
    with pytest.raises(ForeignCheckpointError, match=r"mine\.pt holds no such network under 'gpt_wo_ddp'"):
        load(own.name, weights=f"{path}#gpt_wo_ddp", text_encoder=False)


def test_a_file_alone_is_known_by_its_tensors(own: Own, tmp_path: Path) -> None:
    torch.save({"trainer": {"x": own.network, "vae_local": own.tokenizer}}, tmp_path / "mine.pt")
    assert same(load(tmp_path / "mine.pt", text_encoder=False), own.model)
    assert same(load(f"{tmp_path}/mine.pt#x", text_encoder=False), own.model)
    assert same(load(tmp_path, text_encoder=False), own.model), "a folder of it"


def without_a_block(own: Own) -> State:
    """The network without its last block."""
    depth, chunks = own.model.config.depth, getattr(own.model.config, "chunks", 1)
    last = f"blocks.{depth - 1}." if own.name != "infinity-2b" else f"block_chunks.{chunks - 1}."
    return {key: t for key, t in own.network.items() if not key.startswith(last)}


def test_the_number_of_blocks_is_read_from_the_file(own: Own, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"network": without_a_block(own), "vae": own.tokenizer}, tmp_path / "mine.pt")
    with caplog.at_level(logging.WARNING):
        found = load(own.name, weights=tmp_path / "mine.pt", text_encoder=False)
    assert 0 < found.config.depth < own.model.config.depth and "with depth" in caplog.text
    assert load(tmp_path / "mine.pt", text_encoder=False).config == found.config


def test_a_block_that_is_missing_in_the_middle_is_missing(own: Own, tmp_path: Path) -> None:
    gone = "blocks.1." if own.name != "infinity-2b" else "block_chunks.0.module.0."
    state = {key: t for key, t in own.network.items() if not key.startswith(gone)}
    torch.save({"network": state, "vae": own.tokenizer}, tmp_path / "mine.pt")
    with pytest.raises(ForeignCheckpointError, match=r"tensors missing.*left over \(network\.|cannot be divided"):
        load(own.name, weights=tmp_path / "mine.pt", text_encoder=False)


def test_messages_quote_the_files_own_keys(own: Own, tmp_path: Path) -> None:
    key, tensor = next((key, t) for key, t in own.network.items() if key.startswith("word_embed"))
    state = own.network | {key: torch.cat([tensor, tensor])}
    torch.save({"model": wrapped(state, "module."), "vae": own.tokenizer}, tmp_path / "mine.pt")
    with pytest.raises(ShapeError, match=rf"mine\.pt does not fit .*\(model\.module\.{key} is \(") as caught:
        load(own.name, weights=tmp_path / "mine.pt", text_encoder=False)
    assert len(str(caught.value)) < 1000


def test_another_number_of_classes_is_read_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = tiny("var", 5, classes=10), FAMILIES["var"].sizes
    row = replace(sizes["var-d16"], config=replace(model.config, classes=1000, depth=9), defaults=model.defaults)
    monkeypatch.setitem(sizes, "var-d16", row)  # type: ignore[arg-type]
    network, tokenizer = var_parts(model)  # type: ignore[arg-type]
    torch.save({"trainer": {"var_wo_ddp": network, "vae_local": tokenizer}}, tmp_path / "mine.pt")
    assert same(load("var-d16", weights=tmp_path / "mine.pt"), model)
    assert same(load(tmp_path / "mine.pt"), model)


def test_several_files_of_a_folder_are_named(own: Own, tmp_path: Path) -> None:
    for name in ("one.pt", "two.pt"):
        torch.save({"x": own.network, "vae": own.tokenizer}, tmp_path / name)
    with pytest.raises(UnknownModelError, match=r"holds one\.pt and two\.pt; give the network's file itself"):
        load(own.name, weights=tmp_path, text_encoder=False)
    with pytest.raises(CheckpointError, match=r"one\.pt, two\.pt"):
        load(tmp_path, text_encoder=False)
