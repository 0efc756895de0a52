"""The CLIP text encoder, on tiny random ones that are built here."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from stagevar.errors import ForeignCheckpointError, MissingFileError
from stagevar.families.text_encoders.clip import ClipEncoder, ClipPair

from .tiny_clip import END, WORDS, build_tokenizer, randomized, settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model alone beside its tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("clip")
    randomized(CLIPTextModel(CLIPTextConfig(**settings()))).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(folder: Path) -> ClipEncoder:
    return ClipEncoder.from_pretrained(folder)


def test_one_row_per_token_with_start_and_end(encoder: ClipEncoder) -> None:
    text = encoder(["a cat", ""])
    assert [tuple(states.shape) for states in text.features] == [(6, 16), (2, 16)]
    assert text.pooled is not None
    assert text.pooled.shape == (2, 16)
    assert all(torch.equal(states[-1], pooled) for states, pooled in zip(text.features, text.pooled, strict=True))
    assert {text.pooled.dtype, text.features[0].dtype} == {torch.float32}


@pytest.mark.parametrize("pad", ["a", END])
def test_states_equal_those_of_a_batch_padded_to_77(encoder: ClipEncoder, pad: str) -> None:
    prompts = ["a red cat", "the dog", ""]
    encoder.tokenizer.pad_token = pad
    batch = encoder.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt")
    assert batch["input_ids"].shape == (3, 77)
    text = encoder(prompts)
    for given in (dict(batch), {"input_ids": batch["input_ids"]}):
        with torch.inference_mode():
            output = encoder.model(**given)
        torch.testing.assert_close(text.pooled, output.pooler_output, rtol=1e-4, atol=1e-5)
        for states, row, mask in zip(text.features, output.last_hidden_state, batch["attention_mask"], strict=True):
            torch.testing.assert_close(states, row[mask.bool()], rtol=1e-4, atol=1e-5)


def test_a_prompt_does_not_depend_on_its_batch_and_is_encoded_once(
    encoder: ClipEncoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = ClipEncoder.from_pretrained(folder)(["red"]).features[0]
    assert torch.equal(encoder(["blue house", "red"]).features[1], alone)
    monkeypatch.setattr(encoder, "model", None)
    encoder(["red", "blue house"])


def test_a_long_prompt_is_cut_with_a_warning_that_quotes_the_rest(
    encoder: ClipEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "stagevar"):
        fits = encoder(["x" * 75])
        assert not caplog.records
        cut = encoder(["x" * 70 + " " + "abcdefgh"])
    assert len(fits.features[0]) == len(cut.features[0]) == 77
    assert len(caplog.records) == 1
    assert "80 tokens" in caplog.text and "reads 77" in caplog.text and "'fgh'" in caplog.text
    same = encoder(["x" * 70 + " " + "abcde"])
    assert not torch.equal(same.features[0], cut.features[0])
    assert encoder._tokens("x" * 90)[-1] == len(WORDS) - 1


def test_other_layouts_give_the_same_states(folder: Path, tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    states = CLIPTextModel.from_pretrained(folder).state_dict()
    projected = randomized(CLIPTextModelWithProjection(CLIPTextConfig(**settings())))
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = CLIPConfig(text_config=settings(), vision_config=vision | {"image_size": 8, "patch_size": 4})
    whole = randomized(CLIPModel(both))
    for model, name in ((projected, "projected"), (whole, "whole")):
        model.text_model.load_state_dict(states)
        model.save_pretrained(tmp_path / name)
        build_tokenizer().save_pretrained(tmp_path / name)
    CLIPTextModel.from_pretrained(folder).save_pretrained(tmp_path / "parts" / "text_encoder")
    build_tokenizer().save_pretrained(tmp_path / "parts" / "tokenizer")
    want = ClipEncoder.from_pretrained(folder)(["a cat"]).features[0]
    for name, options in (
        ("projected", {}),
        ("whole", {}),
        ("parts", {"subfolder": "text_encoder", "tokenizer_subfolder": "tokenizer"}),
    ):
        found = ClipEncoder.from_pretrained(tmp_path / name, **options)
        assert torch.equal(found(["a cat"]).features[0], want), name


def test_dtype_and_offload(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ClipEncoder.from_pretrained(folder, dtype=torch.bfloat16, offload=True)
    assert encoder.model.dtype == torch.bfloat16
    moves: list[Any] = []
    monkeypatch.setattr(encoder.model, "to", moves.append)
    text = encoder(["red"])
    assert moves == [torch.device("cpu"), "cpu"]
    assert text.pooled is not None and text.pooled.dtype == torch.float32


def test_unfit_files_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str, source: Path | str, **options: Any) -> None:
        with pytest.raises(error, match=match) as caught:
            ClipEncoder.from_pretrained(source, **options)
        assert "\n" not in str(caught.value)

    refused(MissingFileError, "owner/no-such", "owner/no-such-encoder")
    refused(MissingFileError, "text_encoder", folder, subfolder="text_encoder")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    refused(MissingFileError, "tokenizer", tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    refused(ForeignCheckpointError, "16 tensors missing.*CLIP text encoder", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 24}))
    refused(ForeignCheckpointError, "no CLIP text encoder", tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:900])
    refused(ForeignCheckpointError, "CLIP text encoder", tmp_path)


def test_negative_prompts_of_some_images_keep_their_summaries(encoder: ClipEncoder) -> None:
    text = encoder(["red", "blue"])
    spread = text.spread([2, 0], 4)
    assert [len(states) for states in spread.features] == [6, 0, 5, 0]
    assert spread.pooled is not None and text.pooled is not None
    assert torch.equal(spread.pooled[[2, 0]], text.pooled)
    assert not spread.pooled[[1, 3]].any()


def test_a_pair_puts_states_side_by_side_and_keeps_the_second_summary(folder: Path) -> None:
    pair = ClipPair.from_pretrained([folder, folder])
    one, text = pair.encoders[1](["a cat", ""]), pair(["a cat", ""])
    assert [tuple(states.shape) for states in text.features] == [(6, 32), (2, 32)]
    assert all(torch.equal(a, torch.cat([b, b], -1)) for a, b in zip(text.features, one.features, strict=True))
    assert text.pooled is not None and one.pooled is not None
    assert torch.equal(text.pooled, one.pooled)
    pair.encoders[0].max_length = 3
    with pytest.raises(ForeignCheckpointError, match="differently"):
        pair(["a cat"])
