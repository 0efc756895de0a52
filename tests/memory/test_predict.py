"""Memory that is predicted from shapes against what PyTorch allocates and what the kernel counts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from stagevar.accelerators.depthvar import ByDepth, Turned
from stagevar.accelerators.ssg import FromPrior
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.loop.run import run
from stagevar.engine.plan.evict import WindowVotes
from stagevar.engine.plan.local import Local
from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.similar import SelfSimilar
from stagevar.engine.plan.watch import Activity, AttentionEntropy, CodeEntropy, Thumbnail
from stagevar.families.catalogue import FAMILIES
from stagevar.families.stand_ins import noise_text
from stagevar.families.tiny import tiny
from stagevar.families.tokenizers.winograd import convolved
from stagevar.memory.predict import TEXT_LENGTH, Ledger, _measured, run_bytes, weight_bytes
from stagevar.pipeline import Pipeline
from stagevar.request import Request

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"
WORDS = 8


def allocated(work: Callable[[], object]) -> int:
    """The most bytes that PyTorch's allocator had given out at once during the work."""
    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    live = most = 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most


def prepared(family: str) -> tuple[ScaleModel, Plan]:
    model = tiny(family)
    decoder = getattr(model.tokenizer, "decoder", None)
    if isinstance(decoder, torch.nn.Module):
        decoder.to(memory_format=torch.channels_last)  # as loading lays it out
    if model.text_encoder is not None:
        model.text_encoder = noise_text(model, WORDS)
    return model, Pipeline(model).prepare(Request("any")).plan


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_prediction_is_what_pytorch_allocates(family: str, batch: int) -> None:
    model, plan = prepared(family)
    prompts = ["3" if family == "var" else "a red circle"] * batch

    def work() -> None:
        with torch.inference_mode():
            condition = model.condition(model.encode_text(prompts))
        for step in run(model, condition, model.schedule(), [plan] * batch, list(range(batch))):
            latent = step.latent
        del step, condition
        with torch.inference_mode():
            model.decode(latent)

    predicted = run_bytes(model, model.schedule(), plan, batch, text_length=WORDS)
    assert predicted.peak == pytest.approx(allocated(work), rel=0.1)


@pytest.mark.parametrize(("channels", "side"), [(96, 200), (512, 40)])
def test_the_prediction_counts_what_tiles_of_a_convolution_take(channels: int, side: int) -> None:
    """What PyTorch allocates lies between half of what is predicted and a tenth more."""
    x = torch.zeros(1, channels, side, side).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.zeros(channels, channels, 3, 3), torch.zeros(channels)
    most = allocated(lambda: convolved(x, weight, bias))
    with FakeTensorMode(), torch.inference_mode(), Ledger() as ledger:
        convolved(torch.empty(x.shape), torch.empty(weight.shape), torch.empty(channels))
        predicted = ledger.lap()
    assert 0.5 * predicted < most < 1.1 * predicted


AXES: dict[str, Callable[[int], dict[str, object]]] = {
    "parts": lambda depth: {"parts": (PartRows(0.5, source=2),)},
    "pattern": lambda depth: {"attend": (Local((1, 3), 1, 8),)},
    "correction": lambda depth: {"correct": FromPrior(0.5)},
    "gain": lambda depth: {"gain": ByDepth(Turned(), (0.5,), source=2)},
    "group": lambda depth: {"group": True},
    "keys of an earlier scale": lambda depth: {"attend": (SelfSimilar(0.4, 9, 2, (3,), source=2),)},
    "eviction": lambda depth: {"cache": WindowVotes((24,) * depth)},
    "watch": lambda depth: {"watch": (AttentionEntropy(0.5), Activity(), CodeEntropy(), Thumbnail(32))},
}


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("family", ["infinity", "hart", "star"])
def test_the_prediction_holds_for_plans_with_other_axes(family: str, axis: str) -> None:
    model, plan = prepared(family)
    plan = plan.replace([2], watch=(Turned(),), attend=(SelfSimilar(0.4, 9, 2),))
    first = 4 if axis == "group" else 3  # a watched scale ends its pass
    plan = plan.replace(range(first, len(plan)), **AXES[axis](model.depth))

    def work() -> None:
        with torch.inference_mode():
            condition = model.condition(model.encode_text(["a red circle"] * 2))
        for step in run(model, condition, model.schedule(), [plan] * 2, [0, 1]):
            latent = step.latent
        del step, condition
        with torch.inference_mode():
            model.decode(latent)

    predicted = run_bytes(model, model.schedule(), plan, 2, text_length=WORDS)
    assert predicted.peak == pytest.approx(allocated(work), rel=0.1)


def test_the_cache_of_a_plan_that_drops_entries_is_what_stays() -> None:
    model, plan = prepared("infinity")
    schedule, last = model.schedule(), len(plan) - 2
    dropped = plan.replace(range(3, len(plan)), cache=WindowVotes((24,) * model.depth))
    predicted = run_bytes(model, schedule, dropped, 1).scales[last].cache
    assert predicted == 2 * 2 * model.depth * 24 * model.config.width * 4


@pytest.mark.parametrize("family", ["infinity", "var"])
def test_memory_grows_linearly_with_the_batch(family: str) -> None:
    model, plan = prepared(family)
    two, three, seven = (run_bytes(model, model.schedule(), plan, batch).peak for batch in (2, 3, 7))
    assert three / two == pytest.approx(1.5, rel=0.03)
    assert seven - two == pytest.approx(5 * (three - two), rel=0.01)
    real = _measured(model, model.schedule(), plan, 7, torch.float32, TEXT_LENGTH)
    assert seven == pytest.approx(real.peak, rel=0.01)


def test_the_cache_holds_all_scales_so_far() -> None:
    model, plan = prepared("var")
    schedule = model.schedule()
    scales = run_bytes(model, schedule, plan, 2).scales
    tokens = [sum(h * w for h, w in schedule[: k + 1]) for k in range(len(schedule))]
    config = model.config
    filled = [2 * 4 * count * 4 * config.width * config.depth for count in tokens]
    assert [scale.cache for scale in scales] == [*filled[:-1], filled[-2]]
    assert not any(scale.cache for scale in run_bytes(tiny("switti"), schedule, plan, 1).scales)
    half = run_bytes(model, schedule, plan, 2, dtype=torch.bfloat16).scales
    assert [2 * scale.cache for scale in half] == [scale.cache for scale in scales]


def test_weights_are_counted_as_they_are_loaded() -> None:
    model = tiny("infinity")
    assert weight_bytes(model, torch.float32) == sum(t.nbytes for t in model.state_dict().values())
    model.blocks.half()
    assert weight_bytes(model, torch.float16) == sum(t.nbytes for t in model.state_dict().values())


def test_an_accelerator_that_ends_guidance_needs_less() -> None:
    model, plan = prepared("infinity")
    shorter = Pipeline(model).prepare(Request("a", accelerator="drop_last(2)")).plan
    plain, less = (run_bytes(model, model.schedule(), each, 2) for each in (plan, shorter))
    assert max(scale.peak for scale in less.scales) < 0.8 * max(scale.peak for scale in plain.scales)


def test_the_model_is_left_alone() -> None:
    model, plan = prepared("star")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run_bytes(model, model.schedule(), plan, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the resident set from /proc")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_process_grows_as_predicted(family: str) -> None:
    command = [sys.executable, str(BENCHMARK), "--json", "--families", family, "--batches", "1,3"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        row = json.loads(line)
        assert row["predicted"] == pytest.approx(row["measured"], rel=0.1)
