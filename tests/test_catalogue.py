"""Models by name, from files in the layout in which Infinity was published."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
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
from stagevar.measure.conform import Probe
from stagevar.measure.conform_infinity import build, config_of
from stagevar.models import catalogue, infinity
from stagevar.models.bsq import BinaryTokenizer
from stagevar.models.family import Family, read_fields
from stagevar.models.folder import save_model
from stagevar.models.infinity import Infinity, InfinityConfig
from stagevar.models.scenes import Scenes, ScenesConfig
from stagevar.models.text import T5Encoder
from stagevar.models.tiny import randomize
from stagevar.models.weights import load_config, read_state
from stagevar.pipeline import Pipeline

GOLDEN = Path(__file__).parent / "golden"
SETS = {"infinity-2b": "infinity", "infinity-8b": "infinity_patchify"}
PROMPTS = ["a red circle", "the blue square"]
WORDS = ("a", "red", "blue", "circle", "square", "and", "of", "the")

Published = Callable[[str], Path]


def probe(name: str) -> Probe:
    """The conformance set that stands for a published model: its tensors carry the official names."""
    folder = GOLDEN / SETS[name]
    return Probe(folder, load_config(folder), read_state(folder / "weights.safetensors"), {})


def tiny_config(name: str) -> InfinityConfig:
    """The set's network, with a small decoder where the set has none."""
    config = config_of(probe(name))
    if config.tokenizer.decoder is None:
        config = replace(config, tokenizer=replace(config.tokenizer, base=32, decoder=(1,) * 5, residual_blocks=1))
    return replace(config, budget="0.06M", rotary_reference=None)


def official(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of transformer and tokenizer as their authors name them."""
    weights = probe(name).weights
    network, tokenizer = (
        {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
        for prefix in ("infinity.", "vae.")
    )
    if not any(key.startswith("decoder.") for key in tokenizer):
        decoder = BinaryTokenizer(tiny_config(name).tokenizer)
        randomize(decoder, 0)
        tokenizer |= {spelled(key): tensor for key, tensor in decoder.state_dict().items()}
    return network, tokenizer


def spelled(key: str) -> str:
    """The official key of a tensor of the tokenizer: convolutions and norms are wrapped once more."""
    wrapped = re.sub(r"((?:conv|nin_shortcut)\w*)\.(weight|bias)$", r"\1.conv.\2", key)
    return re.sub(r"(norm\w*)\.(weight|bias)$", r"\1.norm.\2", wrapped)


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 of one layer whose states are as wide as the sets expect."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    folder = tmp_path_factory.mktemp("t5") / "flan-t5-xl"
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    tokenizer = T5Tokenizer(vocab=[*special, *((f"▁{word}", -1.0) for word in WORDS)], extra_ids=0)
    torch.manual_seed(0)
    model = T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=256, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def published(tmp_path: Path, text_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Writes the files of a tiny model as its authors did theirs; the table of sizes describes the tiny ones."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def write(name: str) -> Path:
        size = infinity.SIZES[name]
        monkeypatch.setitem(infinity.SIZES, name, replace(size, config=tiny_config(name)))
        network, tokenizer = official(name)
        network_file, tokenizer_file = (part.file for part in size.parts)
        if network_file.endswith("/"):
            write_shards(network, tmp_path / network_file)
        else:
            torch.save(network, tmp_path / network_file)
        torch.save({"vae": tokenizer, "disc": {"weight": torch.ones(2)}, "step": 3}, tmp_path / tokenizer_file)
        (tmp_path / text_encoder.name).symlink_to(text_encoder)
        return tmp_path

    return write


def write_shards(state: dict[str, Tensor], folder: Path) -> None:
    """Two shards and their index, as transformers writes them."""
    folder.mkdir()
    names = sorted(state)
    places = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(places.values()):
        torch.save({name: state[name] for name in names if places[name] == file}, folder / file)
    (folder / "config.json").write_text("{}")
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


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
    with pytest.raises(ShapeError, match=r"word.weight is \(64, 8\), expected \(64, 32\)"):
        Pipeline.from_pretrained("infinity-2b", weights=folder)


def test_a_pickle_with_code_is_refused(published: Published) -> None:
    folder = published("infinity-2b")
    torch.save({"vae": {}, "args": Path("x")}, folder / "infinity_vae_d32reg.pth")
    with pytest.raises(UnsafePickleError, match="safetensors"):
        Pipeline.from_pretrained("infinity-2b", weights=folder)


def test_a_missing_text_encoder_is_said_before_gigabytes_are_read(
    published: Published, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = published("infinity-2b")
    (folder / "flan-t5-xl").unlink()
    monkeypatch.setattr("stagevar.models.published.read_state", lambda path: pytest.fail(f"read {path}"))
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
        assert len({part.prefix for part in size.parts}) == len(size.parts)
        assert all(len(part.repository.split("/")) == 2 for part in size.parts)
        assert size.shipped or not size.parts or (size.licence and family.names)
        model = catalogue.bare(name)
        assert (model.name, model.family, type(model.config)) == (name, family.name, family.config)
        assert catalogue.transformer_parameters(model) < sum(p.numel() for p in model.parameters()) or size.shipped


@pytest.mark.parametrize("family", catalogue.FAMILIES.values(), ids=lambda family: family.name)
def test_a_config_survives_json(family: Family) -> None:
    for size in family.sizes.values():
        assert read_fields(family.config, json.loads(json.dumps(asdict(size.config)))) == size.config
