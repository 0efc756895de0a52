"""Models by name, from files in the layout in which Infinity was published."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stagevar import cli
from stagevar.errors import (
    ForeignCheckpointError,
    MissingFileError,
    OptionError,
    ShapeError,
    UnknownModelError,
    UnsafePickleError,
)
from stagevar.families import catalogue
from stagevar.families.family import Family, renamed
from stagevar.families.infinity import sizes as infinity
from stagevar.families.infinity.network import Infinity
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.families.text_encoders.t5 import T5Encoder
from stagevar.fields import read_fields
from stagevar.loading.save import save_model
from stagevar.measure.conform.infinity import build
from stagevar.pipeline import Pipeline

from ..infinity_files import PROMPTS, SETS, Published, official, probe, published, spelled, text_encoder, tiny_config

__all__ = ["published", "text_encoder"]


def direct(name: str, text_encoder: Path) -> Pipeline:
    """The same model without any file of the published layout."""
    model = Infinity(tiny_config(name), name, infinity.SIZES[name].defaults)
    blocks = build(probe(name)).state_dict()  # what conformance has checked
    _, tokenizer = official(name)
    own = {f"tokenizer.{key}": tokenizer[spelled(key)] for key in model.tokenizer.state_dict()}
    model.load_state_dict(blocks | own)
    model.requires_grad_(False).eval().text_encoder = T5Encoder.from_pretrained(text_encoder)
    return Pipeline(model)


def latents(pipe: Pipeline, **options: Any) -> Tensor:
    return torch.stack(pipe(PROMPTS, seed=5, output_type="latent", **options).images)


@pytest.mark.parametrize("name", SETS)
def test_published_files_give_the_model_that_was_built_directly(
    name: str, published: Published, text_encoder: Path
) -> None:
    pipe = Pipeline.from_pretrained(name, weights=published(name))
    assert pipe.model.name == name
    found, want = latents(pipe), latents(direct(name, text_encoder))
    assert torch.equal(found, want)
    assert found.std() > 0
    assert not torch.equal(found[0], found[1])
    pictures = [p(PROMPTS, seed=5, output_type="pt").images for p in (pipe, direct(name, text_encoder))]
    assert all(map(torch.equal, *pictures))
    negative = latents(pipe, negative_prompt="the red square")
    assert not torch.equal(found, negative)


def test_the_transformer_of_a_training_checkpoint_is_found(published: Published) -> None:
    folder = published("infinity-2b")
    plain = latents(Pipeline.from_pretrained("infinity-2b", weights=folder))
    file = folder / "infinity_2b_reg.pth"
    state = torch.load(file, weights_only=True)
    torch.save({"trainer": {"gpt_fsdp": state, "vae_local": {}, "g_it": 7}, "epoch": 1}, file)
    assert torch.equal(latents(Pipeline.from_pretrained("infinity-2b", weights=folder)), plain)


def test_half_precision_files_are_read_as_well(published: Published) -> None:
    folder = published("infinity-2b")
    file = folder / "infinity_2b_reg.pth"
    torch.save({key: tensor.bfloat16() for key, tensor in torch.load(file, weights_only=True).items()}, file)
    pipe = Pipeline.from_pretrained("infinity-2b", weights=folder)
    assert pipe.model.dtype == torch.float32
    assert latents(pipe).isfinite().all()
    assert Pipeline.from_pretrained("infinity-2b", weights=folder, dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["infinity_2b_reg.pth", "infinity_vae_d32reg.pth"])
def test_a_missing_file_is_named(name: str, published: Published) -> None:
    folder = published("infinity-2b")
    (folder / name).unlink()
    with pytest.raises(MissingFileError, match=name):
        Pipeline.from_pretrained("infinity-2b", weights=folder)


def test_a_missing_shard_is_named(published: Published) -> None:
    folder = published("infinity-8b")
    (folder / "infinity_8b_weights" / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(MissingFileError, match=r"lacks 1 of 2 shards: pytorch_model-00002-of-00002\.bin"):
        Pipeline.from_pretrained("infinity-8b", weights=folder)


def test_files_of_another_family_or_size_are_refused(published: Published) -> None:
    folder = published("infinity-2b")
    file = folder / "infinity_2b_reg.pth"
    state = torch.load(file, weights_only=True)
    torch.save({"patch_embed.weight": torch.ones(3)}, file)
    with pytest.raises(ForeignCheckpointError, match=r"missing.*left over.*patch_embed"):
        Pipeline.from_pretrained("infinity-2b", weights=folder)
    torch.save(state | {"word_embed.weight": torch.ones(64, 8)}, file)
    with pytest.raises(ShapeError, match=r"word_embed\.weight is \(64, 8\), expected \(64, 32\)"):
        Pipeline.from_pretrained("infinity-2b", weights=folder)


def test_a_pickle_with_code_is_refused(published: Published) -> None:
    folder = published("infinity-2b")
    torch.save({"vae": {}, "args": re.compile("x")}, folder / "infinity_vae_d32reg.pth")
    with pytest.raises(UnsafePickleError, match="safetensors"):
        Pipeline.from_pretrained("infinity-2b", weights=folder)


def test_a_missing_text_encoder_is_said_before_gigabytes_are_read(
    published: Published, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = published("infinity-2b")
    (folder / "flan-t5-xl").unlink()
    monkeypatch.setattr("stagevar.loading.published.read_state", lambda path: pytest.fail(f"read {path}"))
    with pytest.raises(MissingFileError, match="text encoder: the files of google/flan-t5-xl"):
        Pipeline.from_pretrained("infinity-2b", weights=folder)
    assert cli.run(["generate", "a red circle", "-m", "infinity-2b", "--weights", str(folder)]) == 4
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


def test_the_command_line_draws_with_published_files(
    published: Published, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = published("infinity-2b")
    arguments = ["generate", PROMPTS[0], "-m", "infinity-2b", "--weights", str(folder), "-q", "-o", str(tmp_path / "o")]
    assert cli.run([*arguments, "--seed", "1"]) == 0
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["a-red-circle-1.png"]
    assert capfd.readouterr() == ("", "")


SHAPE = {"width": 16, "depth": 1, "heads": 2, "text_depth": 1, "grids": (1, 2), "codes": (4, 4)}


@pytest.mark.parametrize(
    "changes",
    [
        {"family": ["scenes"]},
        {"name": ...},
        {"config": "wide"},
        {"config": SHAPE | {"foo": 1}},
        {"config": SHAPE | {"width": "16"}},
        {"config": SHAPE | {"width": 18}},
        {"config": SHAPE | {"heads": 0}},
        {"config": SHAPE | {"depth": -1}},
        {"config": SHAPE | {"grids": (2, 1)}},
        {"config": SHAPE | {"grids": (1, 2.5)}},
        {"config": SHAPE | {"grids": (1, 100_000)}},
        {"config": SHAPE | {"codes": (4,)}},
        {"defaults": {"guidance": "x"}},
        {"defaults": {"temperature": None}},
        {"defaults": {"temperature": (1.0, 1.0, 1.0)}},
        {"defaults": {"top_p": 0}},
    ],
)
def test_a_config_that_makes_no_sense_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_model(Scenes(ScenesConfig(**SHAPE)), tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))
    with pytest.raises(ForeignCheckpointError, match=r"config\.json") as error:
        Pipeline.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_sizes_without_published_weights_say_so() -> None:
    with pytest.raises(MissingFileError, match="no published weights"):
        Pipeline.from_pretrained("infinity-1b")


def test_weights_belong_to_models_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="weights"):
        Pipeline.from_pretrained("scenes", weights=tmp_path)


@pytest.mark.parametrize("source", ["", "dall-e", "x" * 5000, "a\0b", None, 3])
def test_what_is_no_model_is_answered_with_the_models(source: Any) -> None:
    with pytest.raises(UnknownModelError, match="infinity-2b"):
        Pipeline.from_pretrained(source)


@pytest.mark.parametrize("family", catalogue.FAMILIES.values(), ids=lambda family: family.name)
def test_a_row_of_the_table_holds_together(family: Family) -> None:
    for name, size in family.sizes.items():
        assert isinstance(size.config, family.config)
        assert catalogue.find(name) == (family, size)
        assert bool(size.text) == (family.text is not None)
        assert len({file.prefix for file in size.files}) == len(size.files)
        assert all(len(file.repository.split("/")) == 2 for file in size.files if file.repository)
        assert size.shipped or not size.published or (size.licence and family.names)
        model = catalogue.bare(name)
        assert (model.name, model.family, type(model.config)) == (name, family.name, family.config)
        assert catalogue.transformer_parameters(model) < sum(p.numel() for p in model.parameters()) or size.shipped


@pytest.mark.parametrize("family", catalogue.FAMILIES.values(), ids=lambda family: family.name)
def test_a_config_survives_json(family: Family) -> None:
    for size in family.sizes.values():
        assert read_fields(family.config, json.loads(json.dumps(asdict(size.config)))) == size.config


def test_a_module_is_renamed_with_all_below_it_and_none_whose_name_only_begins_alike() -> None:
    names = {"blocks.1": "layers.1", "norm": "final"}
    assert renamed("blocks.1.weight", names) == "layers.1.weight" and renamed("norm", names) == "final"
    assert [renamed(key, names) for key in ("blocks.10.weight", "normal")] == ["blocks.10.weight", "normal"]
