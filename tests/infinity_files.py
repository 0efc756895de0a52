"""Tiny models of Infinity in the files that its authors publish, and fixtures around them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stagevar.families.infinity import sizes as infinity
from stagevar.families.infinity.network import InfinityConfig
from stagevar.families.tiny import randomize
from stagevar.families.tokenizers.bsq import BinaryTokenizer
from stagevar.loading.read import load_config, read_state
from stagevar.measure.conform.conform import Probe
from stagevar.measure.conform.infinity import config_of

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
        network_file, tokenizer_file = (part.path for part in size.files)
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
