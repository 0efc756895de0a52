"""Models written as folders: whole or not at all, and without touching what others wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stagevar.errors import ForeignCheckpointError, OutputError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.tiny import tiny
from stagevar.loading.convert import convert
from stagevar.loading.folder import text_repositories
from stagevar.loading.read import load_config, read_state
from stagevar.loading.save import save_model
from stagevar.loading.sources import load
from stagevar.pipeline import Pipeline

from ..infinity_files import Published, published, text_encoder

__all__ = ["published", "text_encoder"]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    save_model(tiny("scenes"), folder)
    return folder


@pytest.fixture
def infinity(tmp_path: Path, published: Published) -> Path:
    """A model with its text encoder."""
    files = published("infinity-2b")
    convert("infinity-2b", tmp_path / "infinity", weights=files)
    return tmp_path / "infinity"


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# --- whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_model_that_has_drawn_is_saved_with_its_weights(tmp_path: Path, dtype: torch.dtype | None) -> None:
    pipe, usual = Pipeline(tiny("scenes")), tiny("scenes").state_dict()
    first = pipe("a red circle", seed=1, output_type="pt").images[0]
    save_model(pipe.model, tmp_path, dtype)
    cast = {name for name, _ in pipe.model.named_parameters()} if dtype else set()
    for name, tensor in read_state(tmp_path).items():
        assert torch.equal(tensor, usual[name].to(torch.bfloat16) if name in cast else usual[name])
    assert torch.equal(pipe("a red circle", seed=1, output_type="pt").images[0], first)


def test_what_is_saved_can_be_loaded_and_saved_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    for seed in (1, 2):
        save_model(tiny("scenes", seed), folder)
        assert all(
            torch.equal(tensor, tiny("scenes", seed).state_dict()[k]) for k, tensor in read_state(folder).items()
        )
        assert names(folder) == load_config(folder)["files"] == ["config.json", "model.safetensors"]
        assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("before", [True, False])
def test_a_failure_leaves_the_folder_as_it_was(
    tmp_path: Path, failure: BaseException, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    if before:
        save_model(tiny("scenes", width=16), folder)

    def fail(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise failure

    monkeypatch.setattr("stagevar.loading.save.save_file", fail)
    with pytest.raises((OutputError, KeyboardInterrupt), match=r"No space left|^$"):
        save_model(tiny("scenes", width=32), folder)
    assert folder.exists() == before
    if before:
        assert names(folder) == ["config.json", "model.safetensors"] and load(folder).config.width == 16


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_model(tiny("scenes"), tmp_path / "file" / "model")


# --- the files of others ---------------------------------------------------------------------------------------------


def test_a_folder_of_somebody_else_is_not_written_to(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    for config in (None, "{}", '{"family": "gpt"}', "no json"):
        if config is not None:
            (tmp_path / "photos" / "config.json").write_text(config)
        before = names(tmp_path / "photos")
        with pytest.raises(OutputError, match="not empty"):
            convert(scenes, tmp_path / "photos")
        assert names(tmp_path / "photos") == before
    with pytest.raises(OutputError, match="is a file"):
        convert(scenes, tmp_path / "photos" / "cat.png")


def test_a_target_that_cannot_be_used_is_said_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cat.png").touch()
    monkeypatch.setattr("stagevar.loading.convert.load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(OutputError, match="not empty"):
        convert("scenes", tmp_path)


def test_converting_in_place_touches_own_files_only(infinity: Path) -> None:
    (infinity / "notes.txt").write_text("mine")
    (infinity / "flan-t5-xl" / "notes.txt").write_text("mine too")
    edit(
        infinity, files=[*load_config(infinity)["files"], "notes.txt", "../cat.png", "/etc/hostname", ".", "a/../b", 3]
    )
    (infinity.parent / "cat.png").touch()
    convert(infinity, infinity, dtype=torch.bfloat16)
    assert load(infinity, text_encoder=False).name == "infinity-2b"
    convert(infinity, infinity, copy_text=False)
    assert names(infinity) == ["config.json", "flan-t5-xl", "flan-t5-xl/notes.txt", "model.safetensors", "notes.txt"]
    assert (infinity.parent / "cat.png").exists() and Path("/etc/hostname").exists()


def test_a_folder_of_an_encoder_that_is_left_out_goes_when_it_is_empty(infinity: Path) -> None:
    convert(infinity, infinity, copy_text=False)
    assert names(infinity) == ["config.json", "model.safetensors"]


def test_a_file_of_somebody_else_is_not_replaced(infinity: Path, tmp_path: Path) -> None:
    convert(infinity, tmp_path / "target", copy_text=False)
    own = tmp_path / "target" / "flan-t5-xl" / "config.json"
    own.parent.mkdir()
    own.write_text("mine")
    before = names(tmp_path / "target")
    with pytest.raises(OutputError, match=r"config\.json was not written by stagevar and is kept"):
        convert(infinity, tmp_path / "target")
    assert own.read_text() == "mine" and names(tmp_path / "target") == before


def a_linked_file(target: Path, elsewhere: Path) -> None:
    (elsewhere / "model.safetensors").write_bytes(b"precious")
    (target / "model.safetensors").unlink()
    (target / "model.safetensors").symlink_to(elsewhere / "model.safetensors")


def a_linked_folder(target: Path, elsewhere: Path) -> None:
    for path in (target / "flan-t5-xl").iterdir():
        path.unlink()
        (elsewhere / path.name).write_bytes(b"precious")
    (target / "flan-t5-xl").rmdir()
    (target / "flan-t5-xl").symlink_to(elsewhere)


@pytest.mark.parametrize("link", [a_linked_file, a_linked_folder])
def test_links_out_of_the_target_are_not_followed(
    infinity: Path, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    convert(infinity, target)
    elsewhere.mkdir()
    link(target, elsewhere)
    kept = names(elsewhere)
    with pytest.raises(OutputError, match="was not written by stagevar"):
        convert(infinity, target)
    convert(infinity, tmp_path / "other", copy_text=False)
    assert names(elsewhere) == kept and all(path.read_bytes() == b"precious" for path in elsewhere.iterdir())


# --- text encoders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *(["x/.."], ["../x"], ["x/."], ["/etc/passwd"], ["a/b/c"], ["plain"], [7], "x/y", ["x/config.json"]),
        *(["a\\b/c"], ["x/" + 300 * "y"], ["x/y\n"], ["google/flan-t5-xl", "a/b"], ["x/model.safetensors"]),
    ],
    ids=lambda text: str(text)[:20],
)
def test_text_encoders_are_one_plain_repository_each(infinity: Path, text: Any) -> None:
    edit(infinity, text=text)
    with pytest.raises(ForeignCheckpointError, match=r"text encoder"):
        text_repositories(infinity, FAMILIES["infinity"])


def test_two_text_encoders_do_not_share_a_folder(tmp_path: Path) -> None:
    save_model(tiny("switti"), tmp_path)
    edit(tmp_path, text=["a/clip", "b/clip"])
    with pytest.raises(ForeignCheckpointError, match="text encoder"):
        text_repositories(tmp_path, FAMILIES["switti"])


def test_a_hostile_model_cannot_make_convert_touch_the_current_folder(
    infinity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(home)
    edit(infinity, text=["x/.."])
    with pytest.raises(ForeignCheckpointError):
        convert(infinity, Path("out"))
    assert names(home) == ["thesis.txt"]
