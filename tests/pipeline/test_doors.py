"""What a pipeline does besides drawing: codes given and read, likelihoods, drawing without a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stagevar.errors import OptionError, PromptError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PIPES = {name: Pipeline(tiny(name)) for name in ("scenes", "infinity")}
SCENES = PIPES["scenes"]
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
families = pytest.mark.parametrize("family", list(PIPES))


@families
def test_the_codes_of_a_result_are_the_picture(family: str) -> None:
    pipe = PIPES[family]
    result = pipe(["a red circle", "a blue star"], seed=[1, 2])
    for image, codes in zip(result.images, result.codes, strict=True):
        assert np.array_equal(np.asarray(pipe.detokenize(codes)), np.asarray(image))
        again = pipe("a green ring", forced=codes, seed=9)
        assert np.array_equal(np.asarray(again.images[0]), np.asarray(image))


@families
def test_a_scale_that_does_not_run_has_no_codes(family: str) -> None:
    pipe = PIPES[family]
    result = pipe("a red circle", seed=1, accelerator="drop_last(1)")
    assert (result.codes[0][-1] == -1).all() and all((codes >= 0).all() for codes in result.codes[0][:-1])
    assert np.array_equal(np.asarray(pipe.detokenize(result.codes[0])), np.asarray(result.images[0]))


def test_scales_and_positions_can_be_given_alone() -> None:
    codes = SCENES("a red circle", seed=1).codes[0]
    part = codes[3].clone()
    part[:, 2:] = -1
    given = [None, codes[1], None, part, None]
    found = SCENES("a red circle", seed=2, forced=given).codes[0]
    assert torch.equal(found[1], codes[1]) and torch.equal(found[3][:, :2], codes[3][:, :2])
    assert all(bool((each >= 0).all()) for each in found)


BAD: dict[str, tuple[list[Any], str]] = {
    "too few scales": ([None], "codes of 1 scales, and the picture has 5"),
    "another grid": ([torch.zeros(2, 2, dtype=torch.long), *[None] * 4], "codes of scale 0 must be a tensor .1, 1."),
    "fractions": ([torch.zeros(1, 1), *[None] * 4], "codes of scale 0 must be a dense tensor of whole numbers"),
    "no tensor": ([[[0]], *[None] * 4], "codes of scale 0 must be a dense tensor of whole numbers"),
    "complex": ([torch.zeros(1, 1, dtype=torch.complex64), *[None] * 4], "not one of torch.complex64"),
    "large whole numbers": ([torch.zeros(1, 1, dtype=torch.uint64), *[None] * 4], "not one of torch.uint64"),
    "no numbers": ([torch.zeros(1, 1, dtype=torch.long, device="meta"), *[None] * 4], "a dense tensor"),
    "sparse": ([torch.zeros(1, 1, dtype=torch.long).to_sparse(), *[None] * 4], "a dense tensor"),
    "flat": ([torch.zeros(1, dtype=torch.long), *[None] * 4], "a dense tensor"),
    "a text": ("codes", "list with"),
    "a number": (5, "list with"),
    "an unknown code": ([torch.full((1, 1), 99), *[None] * 4], "codes of scale 0 lie between 0 and 15"),
    "below -1": ([torch.full((1, 1), -2), *[None] * 4], "codes of scale 0 lie between 0 and 15"),
}


@pytest.mark.parametrize("name", BAD)
def test_codes_that_the_model_does_not_have_are_refused(name: str) -> None:
    given, why = BAD[name]
    with pytest.raises(OptionError, match=why):
        SCENES("a red circle", forced=given)


def test_codes_of_no_size_of_the_model_are_refused() -> None:
    with pytest.raises(OptionError, match="no picture of the grids None, 7x7"):
        SCENES.detokenize([None, torch.zeros(7, 7, dtype=torch.long)])


@families
def test_a_likelihood_is_that_of_teacher_forcing(family: str) -> None:
    pipe, prompts = PIPES[family], ["a red circle", "a blue star"]
    found = pipe.log_likelihood(PICTURE, prompts)
    assert found[0].nats != found[1].nats and all(each.nats < 0 for each in found)
    codes, seen = pipe.tokenize(PICTURE), dict[tuple[str, int], torch.Tensor]()
    for prompt, likelihood in zip(prompts, found, strict=True):
        seen.clear()
        request = Request(prompt, forced=(*codes[:-1], torch.full_like(codes[-1], -1)), guidance_scale=1.0)
        list(pipe.events([request], tap=lambda name, k, x: seen.setdefault((name, k), x)))
        for k, nats in enumerate(likelihood.scales[:2]):
            logits = seen["logits", k][0] * (pipe.prepare(request).plan[k].temperature or 1.0)
            own = logits.log_softmax(-1).gather(-1, codes[k].flatten(0, 1)[..., None]).sum()
            assert nats == pytest.approx(float(own), rel=1e-3)
        assert likelihood.nats == pytest.approx(sum(likelihood.scales))


def test_a_likelihood_does_not_depend_on_the_other_prompts() -> None:
    prompts = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("circle", "star", "ring")]
    together = SCENES.log_likelihood(PICTURE, prompts)
    for prompt, found in zip(prompts, together, strict=True):
        assert SCENES.log_likelihood(PICTURE, prompt)[0].nats == pytest.approx(found.nats, rel=1e-6)


@families
def test_without_a_prompt_the_null_text_alone_is_drawn(family: str) -> None:
    """Infinity's null text is as long as the prompt, here one word."""
    pipe = PIPES[family]
    free = pipe("", unconditional=True, seed=3)
    null = pipe("circle", seed=3, plan=pipe.prepare(Request("", unconditional=True)).plan)
    assert {record.branch for record in free.trace.records} == {"null"}
    assert all(torch.equal(a, b) for a, b in zip(free.codes[0], null.codes[0], strict=True))
    with pytest.raises(PromptError, match="has no prompt"):
        pipe("a red circle", unconditional=True)


def test_sampling_differs_by_scale() -> None:
    greedy = SCENES("a red circle", seed=1, top_k=1).codes[0]
    mixed = SCENES("a red circle", seed=1, top_k=(1, 1, 0, 0, 0), top_p=(1.0, 1.0, 1.0, 0.5, 0.1)).codes[0]
    assert all(torch.equal(a, b) for a, b in zip(greedy[:2], mixed[:2], strict=True))
    assert not torch.equal(greedy[2], mixed[2])
    for name in ("top_k", "top_p"):
        with pytest.raises(OptionError, match="2 entries but the schedule has 5"):
            SCENES("a red circle", **{name: (1, 1)})
