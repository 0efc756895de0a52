"""VAR: classes, and checkpoints."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stagevar.engine.contract.text import Text
from stagevar.errors import ForeignCheckpointError, PromptError, ShapeError
from stagevar.families.var import imagenet
from stagevar.families.var.imagenet import find_class
from stagevar.families.var.names import CheckpointNames
from stagevar.families.var.network import VAR
from stagevar.families.var.sizes import SIZES
from stagevar.loading.sources import load
from stagevar.pipeline import Pipeline

from .var_parts import official, tiny_var


@pytest.fixture(scope="module")
def model() -> VAR:
    return tiny_var(seed=3)


# --- classes -----------------------------------------------------------------


def test_a_thousand_classes_have_names() -> None:
    assert len(imagenet.names()) == 1000
    assert all(all(each) for each in imagenet.names())
    known = {0: "tench", 207: "golden retriever", 281: "tabby", 388: "giant panda", 963: "pizza", 999: "toilet tissue"}
    assert {number: imagenet.names()[number][0] for number in known} == known


@pytest.mark.parametrize(
    ("prompt", "number"),
    [("207", 207), (" 0 ", 0), ("Golden  Retriever", 207), ("tiger cat", 282), ("tabby cat", 281), ("polecat", 358)],
)
def test_a_class_is_a_number_or_a_name(prompt: str, number: int) -> None:
    assert find_class(prompt, 1000) == number


@pytest.mark.parametrize(
    ("prompt", "classes", "match"),
    [
        ("1000", 1000, "there is no class 1000; the model draws classes 0 to 999"),
        ("-1", 1000, "no class -1"),
        ("1" * 5000, 1000, "no class of ImageNet"),
        ("golden retreiver", 1000, r"'golden retreiver' is no class of ImageNet; close are 207 \(golden retriever\)"),
        ("a cat on a sofa in the rain", 1000, "ImageNet"),
        ("xyzzy", 1000, "such as 'golden retriever', or a number"),
        ("crane", 1000, r"several classes of ImageNet; give the number, 134 \(crane\) or 517 \(crane\)"),
        ("panda", 1000, r"387 \(lesser panda, .* or 388 \(giant panda, "),
        ("golden retriever", 10, "a number from 0 to 9, not 'golden retriever'"),
        ("10", 10, "0 to 9"),
    ],
)
def test_unknown_classes_are_explained(prompt: str, classes: int, match: str) -> None:
    with pytest.raises(PromptError, match=match):
        find_class(prompt, classes)


def test_names_and_whole_numbers_draw_the_same(model: VAR) -> None:
    pipe = Pipeline(model)
    by_name = pipe(["golden retriever", "volcano"], seed=1, output_type="pt").images
    for same in ([207, 980], ["207", "980"], (np.int64(207), 980), torch.tensor([207, 980])):
        assert all(torch.equal(a, b) for a, b in zip(by_name, pipe(same, seed=1, output_type="pt").images, strict=True))
    with pytest.raises(PromptError, match="0 to 999"):
        pipe(1000)


def test_the_null_class_unless_a_negative_one_is_given(model: VAR) -> None:
    text = model.encode_text(["1", "2"])
    plain = model.condition(text)
    assert torch.equal(plain.pooled, model.classes.weight[[1, 2, 1000, 1000]])
    mixed = model.condition(text, model.encode_text(["7"]).spread([1], 2))
    assert torch.equal(mixed.pooled, model.classes.weight[[1, 2, 1000, 7]])
    for wrong in (torch.tensor([1001]), torch.tensor([-1]), torch.tensor([1, 2]), torch.tensor([0.5])):
        with pytest.raises(PromptError, match="one class per picture"):
            model.condition(Text((wrong,)))


# --- checkpoints -------------------------------------------------------------


def test_names_of_published_tensors() -> None:
    names = CheckpointNames()
    assert names.rename("var.blocks.12.ada_lin.1.weight") == "blocks.12.attention.modulation.weight"
    assert names.rename("var.blocks.3.ada_gss") == "modulation.tables.3"
    assert names.rename("var.shared_ada_lin.1.bias") == "modulation.shared.bias"
    assert names.rename("var.head_nm.ada_lin.1.bias") == "head.modulation.bias"
    assert names.rename("var.head.bias") == "head.proj.bias"
    for constant in ("lvl_1L", "attn_bias_for_masking", "blocks.0.attn.zero_k_bias"):
        assert names.rename(f"var.{constant}") is None
    assert names.rename("vae.encoder.conv_in.weight") is None
    assert CheckpointNames(encoder=True).rename("vae.encoder.conv_in.weight") == "tokenizer.encoder.conv_in.weight"
    assert names.rename("var.mystery.weight") == "mystery.weight"


def publish(model: VAR, folder: Path, back_end: str = "plain") -> None:
    network, tokenizer = official(model, back_end)
    nested = {"trainer": {"var_wo_ddp": network, "iterations": 3}}  # as training saves it
    torch.save(nested if back_end == "flash" else network, folder / "var_d16.pth")
    torch.save(tokenizer, folder / "vae_ch160v4096z32.pth")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("back_end", ["plain", "flash"])
def test_a_published_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool, back_end: str
) -> None:
    model = tiny_var(seed=5, shared=shared)
    publish(model, tmp_path, back_end)
    monkeypatch.setitem(SIZES, "var-d16", replace(SIZES["var-d16"], config=model.config, defaults=model.defaults))
    loaded = load("var-d16", weights=tmp_path)
    want, found = (Pipeline(one)(207, seed=1, output_type="latent").images[0] for one in (model, loaded))
    assert torch.equal(want, found)
    half = load("var-d16", weights=tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.blocks.parameters()} == {torch.bfloat16}


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_var(seed=5)
    publish(model, tmp_path)
    for changes, error, match in (
        ({"width": 128, "heads": 2}, ShapeError, "another shape"),
        ({"shared": True}, ForeignCheckpointError, "left over"),
    ):
        config = replace(model.config, **changes)
        monkeypatch.setitem(SIZES, "var-d16", replace(SIZES["var-d16"], config=config))
        with pytest.raises(error, match=match):
            load("var-d16", weights=tmp_path)


def test_the_example_runs_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["var.py", "golden retriever", "980", "--tiny", "--varied"])
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "var.py"))
    with Image.open("var.png") as sheet:
        assert sheet.size == (32, 16)
