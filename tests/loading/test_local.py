"""Folders and files of users, in every layout that authors, hub clients and trainers leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stagevar.errors import MissingFileError, UnknownModelError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.family import Size
from stagevar.loading.available import check
from stagevar.loading.sources import load, resolve

from ..infinity_files import write_shards
from .test_training_files import Own, own, same

__all__ = ["own"]

State = dict[str, Tensor]


def row(own: Own) -> Size:
    return FAMILIES[own.model.family].sizes[own.name]


def save(state: State, path: Path) -> None:
    """As a pickle under a name that ends so, else as the one file of safetensors in a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".pth", ".bin"):
        torch.save(state, path)
    else:
        path.mkdir(parents=True, exist_ok=True)
        save_file(state, path / "model.safetensors")


def published(own: Own, root: Path) -> Path:
    """The files of a model as on the hub, each repository in a folder named after it."""
    for file, state in zip(row(own).files, (own.network, own.tokenizer), strict=True):
        save(state, root / file.repository.split("/")[1] / file.path)
    return root


def beside(own: Own, root: Path) -> Path:
    """The same where only the files of another repository are in a folder of their own."""
    network, tokenizer = row(own).files
    save(own.network, root / network.path)
    apart = "" if tokenizer.repository == network.repository else tokenizer.repository.split("/")[1]
    save(own.tokenizer, root / apart / tokenizer.path)
    return root


@pytest.fixture(autouse=True)
def _without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows describe the tiny models, so what a config.json would say is left out."""
    for name, family in FAMILIES.items():
        monkeypatch.setitem(FAMILIES, name, replace(family, adapt=None))  # type: ignore[index]


@pytest.mark.parametrize("layout", [published, beside])
def test_a_folder_of_published_files_is_given_as_weights(
    own: Own, layout: Callable[[Own, Path], Path], tmp_path: Path
) -> None:
    assert same(load(own.name, weights=layout(own, tmp_path), text_encoder=False), own.model)


def test_a_folder_of_published_files_is_understood_by_itself(own: Own, tmp_path: Path) -> None:
    folder = published(own, tmp_path) / row(own).files[0].repository.split("/")[1]
    assert same(load(folder, text_encoder=False), own.model)
    assert same(load(own.name, weights=folder, text_encoder=False), own.model), "the tokenizer lies beside it"


def test_another_name_of_the_folder_does_not_matter(own: Own, tmp_path: Path) -> None:
    folder = beside(own, tmp_path / "downloads")
    found = load(folder, text_encoder=False)
    assert same(found, own.model) and found.name == own.name


TRAINERS: Mapping[str, Callable[[State, Path], None]] = {
    "bin": lambda state, folder: torch.save(state, folder / "pytorch_model.bin"),
    "safetensors": lambda state, folder: save_file(state, folder / "model.safetensors"),
    "named": lambda state, folder: torch.save(state, folder / "epoch-3.ckpt"),
    "shards": lambda state, folder: write_shards(state, folder / "shards"),
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_trainers_leave_beside_the_weights_is_passed_over(own: Own, trainer: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1000"
    folder.mkdir()
    TRAINERS[trainer](own.network | {f"vae.{key}": t for key, t in own.tokenizer.items()}, folder)
    folder = folder / "shards" if trainer == "shards" else folder
    for name in ("optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state_0.pth", "random_states_0.pt", "args.pt"):
        torch.save({"state": torch.ones(3)}, folder / name)
    for name in ("training_args.bin", "scaler.pt", "optimizer_state.pth", "opt.pt", "lr_scheduler.bin"):
        torch.save({"state": torch.ones(3)}, folder / name)
    for name in ("trainer_state.json", "config.json"):
        (folder / name).write_text(json.dumps({"epoch": 3}))
    assert same(load(own.name, weights=folder, text_encoder=False), own.model)
    assert same(load(folder, text_encoder=False), own.model)


def test_a_folder_of_two_models_asks_which(tmp_path: Path) -> None:
    for name in ("var_d16.pth", "var_d20.pth"):
        (tmp_path / name).touch()
    with pytest.raises(UnknownModelError, match=r"could be var-d16 or var-d20; name one, and give .* as its --weights"):
        resolve(tmp_path)


def test_a_folder_of_no_model_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    with pytest.raises(MissingFileError, match=r"no files of a known model, but cat\.png; give the model by name"):
        resolve(tmp_path)


def test_a_model_without_published_weights_takes_a_folder_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .test_training_files import an_infinity, infinity_parts

    model, sizes = an_infinity(), FAMILIES["infinity"].sizes
    network, tokenizer = infinity_parts("infinity-2b")
    monkeypatch.setitem(sizes, "infinity-0.1b", replace(sizes["infinity-0.1b"], config=model.config))  # type: ignore[index]
    torch.save({"trainer": {"gpt_wo_ddp": network}}, tmp_path / "ar-ckpt.pth")
    with pytest.raises(MissingFileError, match=r"infinity_vae_d32reg\.pth"):
        load("infinity-0.1b", weights=tmp_path, text_encoder=False)
    torch.save({"vae": tokenizer}, tmp_path / "infinity_vae_d32reg.pth")
    assert same(load("infinity-0.1b", weights=tmp_path, text_encoder=False), model)
    with pytest.raises(MissingFileError, match="no published weights; give your own network's file"):
        load("infinity-0.1b", text_encoder=False)


def test_a_training_file_needs_no_download(own: Own, tmp_path: Path) -> None:
    torch.save({"trainer": {"x": own.network, "vae_local": own.tokenizer}}, tmp_path / "mine.pt")
    meant = resolve(own.name, tmp_path / "mine.pt")
    check(replace(meant, family=replace(meant.family, text=None), size=replace(row(own), text=())))


def test_a_training_file_under_the_published_name_needs_no_tokenizer_beside_it(own: Own, tmp_path: Path) -> None:
    path = tmp_path / "mine" / (row(own).files[0].path or "pytorch_model.bin")
    path.parent.mkdir(parents=True)
    torch.save({"trainer": {"x": own.network, "vae_local": own.tokenizer}}, path)
    assert same(load(own.name, weights=tmp_path / "mine", text_encoder=False), own.model)


def test_a_folder_above_that_only_has_the_name_of_a_repository_is_not_looked_into(own: Own, tmp_path: Path) -> None:
    _, tokenizer = row(own).files
    (tmp_path / tokenizer.repository.split("/")[1] / "log").mkdir(parents=True)
    save(own.network, tmp_path / "models" / "mine.pth")
    if own.model.family not in ("var", "infinity"):
        pytest.skip("other files are looked for in a folder of that name")
    save(own.tokenizer, tmp_path / "models" / tokenizer.path)
    assert same(load(own.name, weights=tmp_path / "models" / "mine.pth", text_encoder=False), own.model)
    assert same(load(own.name, weights=tmp_path / "models", text_encoder=False), own.model)
