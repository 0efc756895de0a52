"""The Qwen2 text encoder, on a tiny random one that is built here."""

import pytest
import torch

from stagevar.errors import ForeignCheckpointError, MissingFileError, PromptError
from stagevar.families.text_encoders.qwen import INSTRUCTION, QwenEncoder
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline

PAD = "<|endoftext|>"
LENGTH = 12


def build_tokenizer():
    """Every byte is a token."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    words = [*sorted(ByteLevel.alphabet()), PAD]
    return Qwen2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], pad_token=PAD, unk_token=PAD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import Qwen2Config, Qwen2Model

    folder = tmp_path_factory.mktemp("qwen")
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 7,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = Qwen2Model(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(folder):
    return QwenEncoder.from_pretrained(folder, max_length=LENGTH)


def test_states_are_those_of_prompt_and_padding_behind_the_instruction(encoder):
    text = encoder(["a cat", "a red dog"])
    assert [tuple(states.shape) for states in text.features] == [(LENGTH, 24)] * 2
    assert [mask.sum().item() for mask in text.masks] == [5, 9]
    prefix = encoder.tokenizer(INSTRUCTION)["input_ids"]
    assert len(prefix) == len(INSTRUCTION)
    ids = torch.tensor([prefix + encoder.tokenizer("a cat")["input_ids"]])
    with torch.inference_mode():
        bare = encoder.model(input_ids=ids).last_hidden_state[0, len(prefix) :]
    torch.testing.assert_close(text.features[0][:5], bare, rtol=1e-4, atol=1e-5)
    assert not torch.equal(text.features[0][5], text.features[1][9])


def test_states_equal_those_of_a_batch(encoder):
    """As the authors' script reads several prompts at once."""
    prompts = ["a cat", "a red dog"]
    batch = encoder.tokenizer(prompts, padding="max_length", max_length=LENGTH, return_tensors="pt")
    prefix = torch.tensor([encoder.prefix] * 2)
    mask = torch.cat([torch.ones_like(prefix), (batch["input_ids"] != encoder.tokenizer.pad_token_id).long()], 1)
    ids = torch.cat([prefix, batch["input_ids"]], 1)
    with torch.inference_mode():
        states = encoder.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    for found, want in zip(encoder(prompts).features, states[:, prefix.shape[1] :], strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_another_instruction_gives_other_states(encoder):
    other = QwenEncoder(encoder.model, encoder.tokenizer, max_length=LENGTH, instruction="Draw: ")
    assert not torch.equal(other(["a cat"]).features[0], encoder(["a cat"]).features[0])


def test_a_long_prompt_is_refused_with_the_counts(encoder, folder):
    with pytest.raises(PromptError, match=r"13 tokens.*at most 12"):
        encoder(["a" * 13])
    assert QwenEncoder.from_pretrained(folder).max_length == 300


def test_it_feeds_the_network(encoder):
    model = tiny("hart")
    model.text_encoder = encoder
    pipeline = Pipeline(model)
    first, second = (
        pipeline("a cat", seed=1, negative_prompt=negative, output_type="latent").images[0]
        for negative in (None, "a dog")
    )
    assert not torch.equal(first, second)


def test_other_files_are_refused(folder, tmp_path):
    with pytest.raises(MissingFileError):
        QwenEncoder.from_pretrained("owner/no-such-encoder")
    with pytest.raises(MissingFileError, match=r"config\.json"):
        QwenEncoder.from_pretrained(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ForeignCheckpointError, match=r"asks for more.*Qwen2 text model"):
        QwenEncoder.from_pretrained(tmp_path)
