"""What names, paths and repositories mean; models from a stand-in for the hub; folders that load by themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stagevar.errors import ForeignCheckpointError, MissingExtraError, MissingFileError, ShapeError, UnknownModelError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.infinity import sizes as infinity
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.loading.sources import load, resolve
from stagevar.pipeline import Pipeline

from ..infinity_files import PROMPTS, Published, published, text_encoder
from ..standin import Hub

__all__ = ["published", "text_encoder"]

HUB = "FoundationVision/Infinity"
NETWORK, TOKENIZER = "infinity_2b_reg.pth", "infinity_vae_d32reg.pth"


def latents(source: str | Path, **options: object) -> Tensor:
    pipe = Pipeline.from_pretrained(source, **options)  # type: ignore[arg-type]
    return torch.stack(pipe(PROMPTS, seed=5, output_type="latent").images)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def files(published: Published) -> Path:
    """A folder with the published files of a tiny 2B model."""
    return published("infinity-2b")


@pytest.fixture
def online(files: Path, empty_hub: Hub) -> Hub:
    """The same files on the hub, network and tokenizer in one repository and the text encoder in another."""
    empty_hub.add(HUB, {name: (files / name).read_bytes() for name in (NETWORK, TOKENIZER)})
    empty_hub.add(infinity.TEXT_ENCODER, contents(files / "flan-t5-xl"))
    return empty_hub


# --- the hub ------------------------------------------------------------------


@pytest.mark.parametrize("source", ["infinity-2b", f"{HUB}/{NETWORK}"])
def test_a_published_model_comes_from_its_repositories(source: str, online: Hub, files: Path) -> None:
    assert torch.equal(latents(source), latents("infinity-2b", weights=files))
    asked = len(online.requests)
    latents(source, local_files_only=True)
    assert len(online.requests) == asked


def test_a_revision_is_that_of_the_network(online: Hub, files: Path) -> None:
    online.repositories[HUB] = {"v2": online.repositories[HUB]["main"]}
    with pytest.raises(MissingFileError, match="no such revision"):
        latents("infinity-2b")
    assert torch.equal(latents("infinity-2b", revision="v2"), latents("infinity-2b", weights=files))


def test_a_repository_of_several_models_asks_which(online: Hub) -> None:
    with pytest.raises(UnknownModelError, match="several models; give one by name: infinity-2b, infinity-8b"):
        resolve(HUB)


def gate_the_encoder(hub: Hub) -> None:
    hub.gated.add(infinity.TEXT_ENCODER)


def remove_the_encoder(hub: Hub) -> None:
    del hub.repositories[infinity.TEXT_ENCODER]


def remove_the_tokenizer(hub: Hub) -> None:
    del hub.repositories[HUB]["main"][TOKENIZER]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (gate_the_encoder, "text encoder: .*access has to be granted"),
        (remove_the_encoder, "text encoder: .*no such repository"),
        (remove_the_tokenizer, f"{TOKENIZER} of .*no such file"),
    ],
)
def test_nothing_is_downloaded_unless_all_can_be(online: Hub, trouble: Callable[[Hub], None], message: str) -> None:
    trouble(online)
    with pytest.raises(MissingFileError, match=message):
        latents("infinity-2b")
    assert not online.downloads(NETWORK)
    if trouble is gate_the_encoder:
        latents("infinity-2b", token=online.token)
        latents("infinity-2b")  # from the cache


def test_nothing_is_downloaded_for_a_file_that_does_not_fit(online: Hub, tmp_path: Path) -> None:
    mine = tmp_path / "apart" / "mine.pth"
    mine.parent.mkdir()
    torch.save({"layer.weight": torch.ones(2)}, mine)
    with pytest.raises(ForeignCheckpointError, match=r"mine\.pth does not fit Infinity: .*missing.*layer\.weight"):
        load("infinity-2b", weights=mine)
    assert not any(online.downloads(name) for name in (TOKENIZER, "model.safetensors"))


def test_without_its_extra_nothing_is_downloaded(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagevar.loading.available.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"stagevar\[text\]"):
        latents("infinity-2b")
    assert not online.requests


@pytest.mark.parametrize("name", [NETWORK, TOKENIZER, "model.safetensors"])
def test_a_damaged_download_never_becomes_a_model(online: Hub, name: str) -> None:
    online.faults[name] = ["flip"] * 9
    with pytest.raises(MissingFileError, match="damaged"):
        latents("infinity-2b")
    online.faults[name] = ["cut", "flip"]
    latents("infinity-2b")


@pytest.mark.parametrize("copied", [True, False])
def test_a_folder_of_ours_may_lie_on_the_hub(online: Hub, files: Path, tmp_path: Path, copied: bool) -> None:
    model = load("infinity-2b", weights=files, text_encoder=copied)
    save_model(model, tmp_path / "own", text=(infinity.TEXT_ENCODER,))
    online.add("me/own", contents(tmp_path / "own"))
    assert torch.equal(latents("me/own"), latents("infinity-2b", weights=files))
    asked = [path for _, path, _ in online.requests]
    assert any(infinity.TEXT_ENCODER in path for path in asked) != copied


def test_a_repository_that_holds_no_model_is_named(empty_hub: Hub) -> None:
    empty_hub.add("me/else", {"config.json": b'{"family": "gpt"}', "model.safetensors": b"x"})
    with pytest.raises(ForeignCheckpointError, match="names no family"):
        latents("me/else")
    with pytest.raises(MissingFileError, match=r"config\.json of me/nothing: there is no such repository"):
        latents("me/nothing")


# --- files --------------------------------------------------------------------


@pytest.mark.parametrize("name", [NETWORK, "mine.pth"])
def test_a_networks_file_is_known_by_its_name_or_its_tensors(files: Path, name: str) -> None:
    expected = latents("infinity-2b", weights=files)
    (files / NETWORK).rename(files / name)
    assert torch.equal(latents(files / name), expected)
    assert torch.equal(latents("infinity-2b", weights=files / name), expected)


def test_safetensors_are_read_instead_of_a_pickle(files: Path) -> None:
    from safetensors.torch import save_file

    expected = latents("infinity-2b", weights=files)
    state = torch.load(files / NETWORK, weights_only=True)
    save_file(state, (files / NETWORK).with_suffix(".safetensors"))
    (files / NETWORK).write_bytes(b"not read")
    assert torch.equal(latents("infinity-2b", weights=files), expected)


def test_a_file_of_no_model_is_named(files: Path) -> None:
    torch.save({"a": torch.ones(1)}, files / "mine.pth")
    with pytest.raises(UnknownModelError, match=r"mine\.pth has the tensors of no model here"):
        load(files / "mine.pth")


def test_a_checkpoint_of_another_model_says_whose_it_is(published: Published) -> None:
    files = published("infinity-2b")
    own = torch.load(files / NETWORK, weights_only=True)
    (files / "flan-t5-xl").unlink()
    published("infinity-8b")
    torch.save(own, files / "infinity_8b_weights.pth")
    with pytest.raises(ShapeError, match=r"another shape.*its tensors are those of infinity-2b"):
        load("infinity-8b", weights=files / "infinity_8b_weights.pth")


def test_without_a_text_encoder_only_encoded_prompts_are_drawn(files: Path) -> None:
    pipe = Pipeline.from_pretrained("infinity-2b", weights=files, text_encoder=False)
    with pytest.raises(MissingFileError, match="no text encoder"):
        pipe("a red circle")


def test_the_text_encoder_can_wait_on_the_cpu(files: Path) -> None:
    pipe = Pipeline.from_pretrained("infinity-2b", weights=files, offload_text_encoder=True)
    assert pipe.model.text_encoder.offload  # type: ignore[union-attr]


# --- folders ------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_is_written_can_be_read(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    save_model(model, tmp_path)
    found = load(tmp_path)
    assert (found.name, found.family, found.config, found.defaults) == (
        model.name,
        model.family,
        model.config,
        model.defaults,
    )
    state, expected = found.state_dict(), model.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_converted_model_loads_by_itself(
    dtype: str, files: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tmp_path / "own"
    code, out, _ = command("convert", "infinity-2b", folder, "--weights", files, "--dtype", dtype)
    assert code == 0 and "infinity-2b" in out
    expected = latents("infinity-2b", weights=files, dtype=dtype)
    shutil.move(folder, tmp_path / "elsewhere")
    for path in files.iterdir():
        if path.name != "elsewhere":
            path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)
    names = contents(tmp_path / "elsewhere").keys()
    assert {"config.json", "model.safetensors", "flan-t5-xl/model.safetensors"} <= names
    assert torch.equal(latents(tmp_path / "elsewhere", dtype=dtype), expected)


def test_a_conversion_may_leave_the_text_encoder_out(
    files: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = command("convert", "infinity-2b", tmp_path / "own", "--weights", files, "--no-text", "--json")
    assert code == 0 and '"files": ["config.json", "model.safetensors"]' in out
    with pytest.raises(MissingFileError, match="text encoder: the files of google/flan-t5-xl: not in the cache"):
        load(tmp_path / "own")


def test_a_folder_that_lists_no_proper_encoders_is_named(tmp_path: Path) -> None:
    save_model(tiny("infinity"), tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"family"', '"text": 3, "family"'))
    with pytest.raises(ForeignCheckpointError, match="does not list text encoders"):
        load(tmp_path)


LOADING = """
import sys, threading, time
from pathlib import Path

import torch
from stagevar.loading.sources import load

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])

load("scenes")  # what it imports
before, most, done = resident(), [0], threading.Event()

def watch():
    while not done.is_set():
        most[0] = max(most[0], resident())
        time.sleep(0.0005)

watcher = threading.Thread(target=watch)
watcher.start()
model = load(sys.argv[1], dtype=torch.bfloat16)
done.set()
watcher.join()
print(most[0] - before, sum(p.nbytes for p in model.blocks.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the resident set from /proc")
def test_half_precision_is_loaded_without_a_copy_in_full_precision(tmp_path: Path) -> None:
    model = tiny("infinity", width=768, depth=12, heads=8, chunks=4)
    save_model(model, tmp_path)
    full = sum(p.nbytes for p in model.blocks.parameters())
    command = [sys.executable, "-c", LOADING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, blocks = map(int, done.stdout.split())
    assert 2 * blocks == full > 300e6
    assert 0.9 * blocks < grown < 1.3 * blocks  # all else is in float32
