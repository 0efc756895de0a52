"""VAR: the network written out once more, classes by name and number, sampling settings, sizes and checkpoints."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.errors import ForeignCheckpointError, OptionError, PromptError, ShapeError, SizeError
from stagevar.families import catalogue
from stagevar.families.stand_ins import SCHEDULES
from stagevar.families.tiny import tiny
from stagevar.families.var import imagenet
from stagevar.families.var import names as var_names
from stagevar.families.var.imagenet import find_class
from stagevar.families.var.names import CheckpointNames
from stagevar.families.var.network import VAR
from stagevar.families.var.sizes import SIZES
from stagevar.loading.sources import load
from stagevar.measure.bench.compare import compare
from stagevar.pipeline import Pipeline
from stagevar.request import Request


def tiny_var(seed: int = 0, **changes: Any) -> VAR:
    made = tiny("var", seed, **changes)
    assert isinstance(made, VAR)
    return made


@pytest.fixture(scope="module")
def model() -> VAR:
    return tiny_var(seed=3)


# --- published models --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "billions", "side"),
    [
        ("var-d16", 0.31, 256),
        ("var-d20", 0.6, 256),
        ("var-d24", 1.03, 256),
        ("var-d30", 2.01, 256),
        ("var-d36", 2.35, 512),
    ],
)
def test_published_sizes(name: str, billions: float, side: int) -> None:
    model = catalogue.bare(name)
    count = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("tokenizer."))
    assert count / 1e9 == pytest.approx(billions, rel=0.01)
    schedule = model.schedule()
    assert model.picture_size(schedule) == (side, side)
    assert len(schedule) == 10
    assert sum(h * w for h, w in schedule) == {256: 680, 512: 2240}[side]
    plan = Pipeline(model).prepare(Request("any")).plan
    assert [scale.guidance for scale in plan] == pytest.approx([1 + 4 * k / 9 for k in range(10)])
    assert {(scale.top_k, scale.top_p, scale.smooth) for scale in plan} == {(900, 0.95, None)}


# --- the network -------------------------------------------------------------


def official(model: VAR, back_end: str = "plain") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of network and tokenizer as their authors name and shape them, constants included."""
    network, tokenizer = {}, {}
    block = {new: old for old, new in var_names._BLOCK.items()}
    top = {new: old for old, new in var_names._TOP.items()}
    width, heads = model.config.width, model.config.heads
    for name, tensor in model.state_dict().items():
        if name.startswith("tokenizer."):
            key = name.removeprefix("tokenizer.").replace("codebook", "quantize.embedding")
            tokenizer[key.replace("convolutions.", "quantize.quant_resi.qresi_ls.")] = tensor
        elif name.startswith("modulation.tables."):
            network[f"blocks.{name.rpartition('.')[2]}.ada_gss"] = tensor[None, None]
        elif name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            new = next(new for new in block if f"{rest}.".startswith(f"{new}."))
            if new == "attention.log_temperature":
                tensor = tensor.view((1, heads, 1, 1) if back_end == "plain" else (1, 1, heads, 1))
            network[f"blocks.{number}.{rest.replace(new, block[new], 1)}"] = tensor
        else:
            new = next(new for new in top if f"{name}.".startswith(f"{new}."))
            network[name.replace(new, top[new], 1)] = tensor[(None,) * {"start": 2, "positions": 1}.get(name, 0)]
    network |= {f"blocks.{i}.attn.zero_k_bias": torch.zeros(width) for i in range(model.depth)}
    network |= {"lvl_1L": torch.zeros(1, 9, dtype=torch.long), "attn_bias_for_masking": torch.zeros(1, 1, 9, 9)}
    tokenizer |= {"quantize.ema_vocab_hit_SV": torch.zeros(5, 64), "quant_conv.bias": torch.zeros(8)}
    return network, tokenizer


def reference(weights: dict[str, Tensor], model: VAR, labels: Tensor, inputs: Tensor, schedule: Schedule) -> Tensor:
    """Logits (n, L, V) in one pass over all scales with a block-triangular mask, from tensors under official names.

    Args:
        inputs: (n, L - 1, D), the latents as the scales after the first see them.
    """
    config = model.config
    heads, hd = config.heads, config.width // config.heads
    scale_of = torch.cat([torch.full((h * w,), k) for k, (h, w) in enumerate(schedule)])
    mask = torch.where(scale_of[:, None] >= scale_of, 0.0, -math.inf)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + config.eps).sqrt()

    cond = weights["class_emb.weight"][labels]
    active = cond / (1 + (-cond).exp())
    x = torch.cat([cond[:, None] + weights["pos_start"], linear("word_embed", inputs)], 1)
    x = x + weights["lvl_embed.weight"][scale_of] + weights["pos_1LC"]
    for i in range(config.depth):
        p = f"blocks.{i}."
        if config.shared:
            vectors = linear("shared_ada_lin.1", active).view(-1, 1, 6, config.width) + weights[p + "ada_gss"]
        else:
            vectors = linear(p + "ada_lin.1", active).view(-1, 1, 6, config.width)
        gain1, gain2, scale1, scale2, shift1, shift2 = vectors.unbind(2)
        h = norm(x) * (1 + scale1) + shift1
        q, k, v = (h @ weights[p + "attn.mat_qkv.weight"].T).chunk(3, -1)
        q, k, v = (t.view(*t.shape[:2], heads, hd).transpose(1, 2) for t in (q + weights[p + "attn.q_bias"], k, v))
        v = v + weights[p + "attn.v_bias"].view(heads, 1, hd)
        if config.cosine:
            q = q / q.norm(dim=-1, keepdim=True) * weights[p + "attn.scale_mul_1H11"].clamp(max=math.log(100)).exp()
            k = k / k.norm(dim=-1, keepdim=True)
        else:
            q = q * 0.25 / math.sqrt(hd)
        mixed = ((q @ k.mT + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + gain1 * linear(p + "attn.proj", mixed)
        h = linear(p + "ffn.fc1", norm(x) * (1 + scale2) + shift2)
        h = 0.5 * h * (1 + (math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)).tanh())
        x = x + gain2 * linear(p + "ffn.fc2", h)
    scale, shift = linear("head_nm.ada_lin.1", active)[:, None].chunk(2, -1)
    return linear("head", norm(x) * (1 + scale) + shift)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("cosine", [True, False], ids=["cosine", "plain"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["square", "3:2", "1:2"])
def test_the_engine_agrees_with_one_pass_over_all_scales(shared: bool, cosine: bool, schedule: Schedule) -> None:
    """Cached, scale by scale, against a full pass; a temperature above 100 shows the clamp."""
    model = tiny_var(seed=1, shared=shared, cosine=cosine, schedules=(schedule,))
    if cosine:
        model.layers[0].get_parameter("attention.log_temperature").data[0] = 9.0
    logits, codes, inputs, n = [], [], [], 2

    def look(name: str, k: int, tensor: Tensor) -> None:
        if name == "logits":
            logits.append(tensor)
        if name == "codes":
            codes.append(tensor)
        if name == "latent" and k + 1 < len(schedule):
            area = F.adaptive_avg_pool2d(tensor, schedule[k + 1])
            inputs.append(area.flatten(2).transpose(1, 2))

    plan = Plan.uniform(len(schedule), guidance=model.guidance_schedule(3.0, schedule), temperature=0)
    condition = model.condition(model.encode_text(["207", "5"]))
    list(run(model, condition, schedule, [plan] * n, [0] * n, tap=look))
    weights, _ = official(model)
    seen = torch.cat(inputs, 1)
    cond = reference(weights, model, torch.tensor([207, 5]), seen, schedule)
    null = reference(weights, model, torch.tensor([1000, 1000]), seen, schedule)
    sizes = [h * w for h, w in schedule]
    for k, (a, b) in enumerate(zip(cond.split(sizes, 1), null.split(sizes, 1), strict=True)):
        t = 3.0 * k / (len(schedule) - 1)
        torch.testing.assert_close(logits[k], (1 + t) * a - t * b, atol=2e-3, rtol=1e-4)
        assert torch.equal(codes[k], logits[k].argmax(-1))


def test_positions_of_other_sizes_are_resampled(model: VAR) -> None:
    counts = [h * w for h, w in SCHEDULES[0]]
    learned = model.positions.split(counts)
    for k in range(len(SCHEDULES[0])):
        assert torch.equal(model.position(Scale(SCHEDULES[0], k)), learned[k])
        h, w = SCHEDULES[1][k]
        assert model.position(Scale(SCHEDULES[1], k)).shape == (h * w, 64)
    with pytest.raises(SizeError, match=r"var-tiny draws no 17x16"):
        model.schedule(17, 16)


def test_blocks_may_be_bfloat16() -> None:
    model = tiny_var()
    exact = Pipeline(model)(207, seed=1, output_type="latent").images[0]
    model.blocks.to(torch.bfloat16)
    condition = model.condition(model.encode_text(["207"]))
    assert condition.modulation[0].dtype == torch.float32
    rounded = Pipeline(model)(207, seed=1, output_type="latent").images[0]
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < exact.abs().mean()


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


# --- sampling ----------------------------------------------------------------


def test_smoothed_pictures_do_not_depend_on_their_batch(model: VAR) -> None:
    pipe = Pipeline(model)
    requests = [Request("207", seed=1, smooth=True), Request("980", seed=2), Request("980", seed=2, smooth=True)]
    *_, last = pipe.events(requests, output_type="latent")
    assert last.result is not None
    for request, latent in zip(requests, last.result.images, strict=True):
        *_, alone = pipe.events([request], output_type="latent")
        assert alone.result is not None
        torch.testing.assert_close(latent, alone.result.images[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(last.result.images[1], last.result.images[2])


def test_smoothing_ramps_up_where_it_is_asked_for(model: VAR) -> None:
    plan = Pipeline(model).prepare(Request("207", smooth=True)).plan
    assert [scale.smooth for scale in plan] == [k / 5 for k in range(6)]
    with pytest.raises(OptionError, match="scenes-tiny has no smoothed sampling"):
        Pipeline(tiny("scenes"))("a red circle", smooth=True)


def test_demonstrations_and_comparisons_draw_classes(model: VAR) -> None:
    numbers = [int(states) for states in model.encode_text(model.samples).features]
    assert len(set(numbers)) == len(numbers) == 8
    found = compare(Pipeline(model), ["drop_last(1)"], captions=2, batch_size=2)
    assert [row["accelerator"] for row in found["rows"]] == ["none", "drop_last(1)"]


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
        ({"depth": 4}, ForeignCheckpointError, "12 of .* missing"),
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
