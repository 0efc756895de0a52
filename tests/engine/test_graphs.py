"""Captured scales draw what the loop draws.

A tape stands in for a device's graph: it records operations and the tensors that they read and write, and repeats them
on the same memory, whatever Python has meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stagevar.engine.loop.call import Scored
from stagevar.engine.loop.graphs import Graph, Graphs
from stagevar.engine.plan.plan import Plan
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import Request

from .test_matrix import VARIANTS

PROMPTS = ("a red circle", "two yellow rings", "a star above a cross", "a pink square", "three green stars")
CLASSES = ("golden retriever", "3", "volcano", "7", "castle")


class Tape(TorchDispatchMode):
    """Operations in order, each with its arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.entries.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.entries:
            given = {storage(each) for each in tensors((args, kwargs))}
            for place, again in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                if storage(place) not in given:  # neither a view nor in place
                    place.copy_(again)


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.is_mkldnn is False else id(tensor)


def tensors(value: Any) -> list[Tensor]:
    return [each for each in tree_leaves(value) if isinstance(each, Tensor)]


class Recorder:
    """Captures tapes, and remembers which."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def __call__(self, body: Callable[[], Scored]) -> tuple[Graph, Scored]:
        with Tape() as tape:
            result = body()
        self.tapes.append(tape)
        return tape, result


def pair(variant: str) -> tuple[Pipeline, Pipeline, Recorder]:
    """The same model without and with graphs."""
    family, changes = VARIANTS[variant]
    model, recorder = tiny(family, **changes), Recorder()
    plain, captured = Pipeline(model), Pipeline(model)
    captured.graphs = Graphs(lambda: recorder)
    return plain, captured, recorder


def prompts(pipe: Pipeline, start: int, count: int) -> list[str]:
    words = CLASSES if pipe.model.family == "var" else PROMPTS
    return [words[(start + i) % len(words)] for i in range(count)]


def equal(found: list[Tensor], wanted: list[Tensor], variant: str) -> None:
    """To the bit; but for rounding where a text is padded for the sake of graphs."""
    exact = variant.startswith(("var", "hart"))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=0 if exact else 2e-4, rtol=0 if exact else 1e-3)


LAZY = "lazyvar(shares=(0.5, 0.3))"
SOME = ("guidance_off(2)", "drop_last(1)", "reuse_last(1)", LAZY)
CASES = [(variant, "none") for variant in VARIANTS]
CASES += [
    (name, how) for name in ("hart", "infinity") for how in ("guidance_off(2)", "drop_last(1)", "reuse_last(1)", LAZY)
]


@pytest.mark.parametrize(("variant", "accelerator"), CASES)
def test_replays_draw_other_prompts_and_seeds_as_the_loop_does(variant: str, accelerator: str) -> None:
    plain, captured, recorder = pair(variant)
    options: dict[str, Any] = {"accelerator": accelerator, "output_type": "latent"}
    for turn, count in enumerate((2, 2, 2, 1, 1, 1)):
        given, seed = prompts(plain, turn, count), 10 * turn
        wanted, found = plain(given, seed=seed, **options), captured(given, seed=seed, **options)
        equal(found.images, wanted.images, variant)
        records = [[(r.rows, r.cached, r.branch, r.run) for r in each.trace.records] for each in (found, wanted)]
        assert records[0] == records[1]
    executed = len(found.trace.executed(0))
    left = {"reuse_last(1)": 2, LAZY: 2}.get(accelerator, 0)
    assert len(recorder.tapes) == 2 * (executed - left), "every scale of both kinds was captured once"


def test_the_largest_scale_is_captured_first() -> None:
    _, captured, recorder = pair("infinity")
    for seed in range(2):
        captured("a star", seed=seed, output_type="latent")
    sizes = [max(each.numel() for entry in tape.entries for each in tensors(entry[3])) for tape in recorder.tapes]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


def test_settings_of_each_image_differ_within_one_kind() -> None:
    plain, captured, recorder = pair("infinity")
    for scale in (1.0, 3.0, 5.0):
        fields: dict[str, Any] = {"seed": 4, "guidance_scale": scale, "temperature": scale / 4, "output_type": "latent"}
        equal(captured("a star", **fields).images, plain("a star", **fields).images, "infinity")
    tapes = len(recorder.tapes)
    assert tapes == len(plain.model.schedule())
    captured("a star", accelerator="stagevar", output_type="latent")
    captured("a star", plan=Plan.uniform(tapes, branch="null"), output_type="latent")
    assert len(recorder.tapes) == tapes, "revised plans and the null branch alone run without"


def test_a_run_beside_another_goes_without_and_an_abandoned_one_gives_back() -> None:
    plain, captured, _ = pair("var")
    wanted = plain("volcano", seed=1, output_type="latent").images
    for _ in range(3):
        outer = captured.stream("castle", seed=2, output_type="latent")
        next(outer)
        equal(captured("volcano", seed=1, output_type="latent").images, wanted, "var")
        outer.close()
        equal(captured("volcano", seed=1, output_type="latent").images, wanted, "var")


def test_other_weights_are_another_kind() -> None:
    plain, captured, recorder = pair("var")
    for _ in range(2):
        captured("volcano", seed=1, output_type="latent")
    tapes = len(recorder.tapes)
    captured.model.blocks.to(torch.bfloat16)
    wanted = plain("volcano", seed=1, output_type="latent").images
    assert torch.equal(captured("volcano", seed=1, output_type="latent").images[0], wanted[0])
    assert len(recorder.tapes) == tapes


def test_without_cuda_a_pipeline_has_no_graphs() -> None:
    assert Pipeline(tiny("var")).graphs is None and Pipeline(tiny("var")).to("cpu").graphs is None


@pytest.mark.parametrize("variant", ["infinity", "hart"])
def test_images_that_leave_a_replayed_batch_change_neither_the_others_nor_the_next_one(variant: str) -> None:
    plain, captured, recorder = pair(variant)
    asked = [Request(prompt, seed=i) for i, prompt in enumerate(prompts(plain, 0, 3))]
    *_, whole = plain.events(asked, output_type="latent")
    assert whole.result is not None
    for leaver in (1, None, 1, None):  # the first batch of a kind runs without graphs, the second one captures
        scale = iter(range(99))
        *_, last = captured.events(
            asked, output_type="latent", wanted=lambda i, leaver=leaver, scale=scale: next(scale) < 6 or i != leaver
        )
        assert last.result is not None and last.images == ((0, 2) if leaver else (0, 1, 2))
        found = last.result.images
        assert (found[1] is None) == (leaver == 1)
        rest = [i for i in range(3) if i != leaver]
        equal([found[i] for i in rest], [whole.result.images[i] for i in rest], variant)
    assert recorder.tapes
