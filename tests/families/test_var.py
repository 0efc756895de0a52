"""VAR: published models, the network and sampling."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError, SizeError
from stagevar.families import catalogue
from stagevar.families.stand_ins import SCHEDULES
from stagevar.families.tiny import tiny
from stagevar.families.var.network import VAR
from stagevar.measure.bench.compare import compare
from stagevar.pipeline import Pipeline
from stagevar.request import Request

from .var_parts import official, tiny_var


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
    with pytest.raises(SizeError, match=r"var-tiny draws no 16x17"):
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
