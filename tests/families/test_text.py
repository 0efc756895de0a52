"""The T5 text encoder, on a tiny random one that is built here."""

from __future__ import annotations

import builtins
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from stagevar.errors import ForeignCheckpointError, MissingExtraError, MissingFileError, PromptError
from stagevar.families.text_encoders.t5 import T5Encoder

WORDS = ("a", "red", "blue", "circle", "square", "and", "of", "the")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 of two layers with a vocabulary of eight words, saved as transformers does."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    folder = tmp_path_factory.mktemp("t5")
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    tokenizer = T5Tokenizer(vocab=[*special, *((f"▁{word}", -1.0) for word in WORDS)], extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    torch.manual_seed(0)
    model = T5EncoderModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(folder: Path) -> T5Encoder:
    return T5Encoder.from_pretrained(folder)


def test_one_row_per_token_and_one_for_the_end(encoder: T5Encoder) -> None:
    text = encoder(["a red circle", "the blue square and a circle", "red"])
    assert [tuple(states.shape) for states in text.features] == [(4, 16), (7, 16), (2, 16)]
    assert all(states.dtype == torch.float32 for states in text.features)
    assert text.pooled is None


def test_states_equal_those_of_a_padded_and_masked_batch(encoder: T5Encoder) -> None:
    prompts = ["a red circle", "the blue square and a circle"]
    batch = encoder.tokenizer(prompts, padding="max_length", max_length=20, return_tensors="pt")
    with torch.inference_mode():
        padded = encoder.model(**batch).last_hidden_state
    for states, row, mask in zip(encoder(prompts).features, padded, batch["attention_mask"], strict=True):
        torch.testing.assert_close(states, row[mask.bool()], rtol=1e-4, atol=1e-5)


def test_states_do_not_depend_on_the_batch(encoder: T5Encoder, folder: Path) -> None:
    alone = T5Encoder.from_pretrained(folder)(["red circle"]).features[0]
    assert torch.equal(encoder(["a blue square of a circle", "red circle"]).features[1], alone)


def test_a_prompt_is_encoded_once(encoder: T5Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encoder(["red circle"]).features[0]
    monkeypatch.setattr(encoder, "model", None)
    assert encoder(["red circle", "red circle"]).features[1] is first


def test_offloaded_weights_come_back_even_after_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = T5Encoder.from_pretrained(folder, offload=True)
    moves: list[Any] = []
    monkeypatch.setattr(encoder.model, "to", moves.append)
    encoder(["red"])
    monkeypatch.setattr(encoder, "_states", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoder(["blue"])
    assert moves == [torch.device("cpu"), "cpu"] * 2


def test_the_compute_dtype_is_the_given_one_and_the_states_are_float32(folder: Path) -> None:
    encoder = T5Encoder.from_pretrained(folder, dtype=torch.bfloat16)
    assert encoder.model.dtype == torch.bfloat16
    assert encoder(["red"]).features[0].dtype == torch.float32


def test_a_long_prompt_is_refused_with_the_counts(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = T5Encoder.from_pretrained(folder)
    assert len(encoder(["red " * 511]).features[0]) == 512
    with caplog.at_level(logging.WARNING), pytest.raises(PromptError, match=r"513 tokens.*at most 512"):
        encoder(["red " * 512])
    assert not caplog.records


def test_missing_files_are_said_so(tmp_path: Path) -> None:
    for source in (tmp_path, "owner/no-such-encoder"):
        with pytest.raises(MissingFileError) as error:
            T5Encoder.from_pretrained(source)
        assert "\n" not in str(error.value)


def test_a_folder_without_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(MissingFileError, match="tokenizer"):
        T5Encoder.from_pretrained(tmp_path)


def test_a_sentencepiece_vocabulary_serves_as_well(tmp_path: Path) -> None:
    import sentencepiece
    from transformers import T5Config, T5EncoderModel

    with (tmp_path / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a red circle and the blue square"] * 50),
            model_writer=file,
            vocab_size=20,
            **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
        )
    config = T5Config(vocab_size=20 + 100, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4)
    T5EncoderModel(config).save_pretrained(tmp_path)
    encoder = T5Encoder.from_pretrained(tmp_path)
    ids = encoder.tokenizer("a red circle")["input_ids"]
    assert 2 not in ids
    assert ids[-1] == 1


def test_an_encoder_with_missing_tensors_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_layers": 3}))
    with pytest.raises(ForeignCheckpointError, match="missing"):
        T5Encoder.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:900])
    with pytest.raises(ForeignCheckpointError) as error:
        T5Encoder.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_without_transformers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"stagevar\[text\]"):
        T5Encoder.from_pretrained(folder)
