"""What callers bring along: the state of torch that they set, functions that are none, codes that they change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from stagevar.errors import OptionError, PromptError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.pipeline import Pipeline
from stagevar.request import Request


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(tiny("scenes"))


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


STATES = {
    "default device": default_device,
    "device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("state", STATES)
def test_the_state_of_torch_of_the_caller_changes_nothing(family: str, state: str) -> None:
    pipe, prompt = Pipeline(tiny(family)), 3 if family == "var" else "a red circle"
    given = [*pipe(prompt, seed=2).codes[0][:-1], None]
    want = [pipe(prompt, seed=1, output_type="pt", forced=forced).images[0] for forced in (None, given)]
    with STATES[state]():
        found = [pipe(prompt, seed=1, output_type="pt", forced=forced).images[0] for forced in (None, given)]
    assert all(map(torch.equal, found, want))


@pytest.mark.parametrize("state", STATES)
def test_no_door_heeds_the_state_of_torch(pipe: Pipeline, tmp_path: Path, state: str) -> None:
    picture, folder = pipe("a star", seed=1).images[0], tmp_path / "model"
    save_model(pipe.model, folder)
    codes, likely = pipe.tokenize(picture), pipe.log_likelihood(picture, "a star")
    shown = pipe.detokenize(codes, "pt")
    with STATES[state]():
        assert all(map(torch.equal, pipe.tokenize(picture), codes))
        assert torch.equal(pipe.detokenize(codes, "pt"), shown)
        assert pipe.log_likelihood(picture, "a star") == likely
        own = Pipeline.from_pretrained(folder, max_memory="4GB")
        found = own(own.encode("a star"), seed=1, image=picture, expand=(2, 0, 2, 0), output_type="np").images[0]
    want = pipe("a star", seed=1, image=picture, expand=(2, 0, 2, 0), output_type="np").images[0]
    assert (found == want).all()


def test_codes_may_be_changed_and_given_back(pipe: Pipeline) -> None:
    result = pipe("a star", seed=1)
    for codes in (result.codes[0], pipe.tokenize(result.images[0])):
        codes[-1][0, 0] = -1
        pipe("a star", seed=2, forced=codes)


@pytest.mark.parametrize("name", ["cancelled", "wanted", "tap"])
def test_what_is_to_be_called_is_a_function(pipe: Pipeline, name: str) -> None:
    with pytest.raises(OptionError, match=f"{name} must be a function, not True"):
        pipe.events([Request("a star")], **{name: True})  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="callback_on_step_end must be a function, not 3"):
        pipe("a star", callback_on_step_end=3)  # type: ignore[arg-type]


def test_what_no_door_takes_is_refused(pipe: Pipeline) -> None:
    codes = pipe("a star").codes[0]
    with pytest.raises(OptionError, match="output_type must be one of pil, np, pt, latent, not 'jpeg'"):
        pipe.detokenize(codes, "jpeg")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"prepare takes a stagevar\.Request, not 'a star'"):
        pipe.prepare("a star")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"gave a dict where a stagevar\.Plan belongs"):
        pipe("a star", plan={})  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="the negative prompt must be text, not bytes"):
        pipe("a star", negative_prompt=b"a star")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_the_process_changes_nothing(family: str, dtype: torch.dtype) -> None:
    pipe, prompt = Pipeline(tiny(family)), 3 if family == "var" else "a red circle"
    want = pipe(prompt, seed=1, output_type="pt").images[0]
    torch.set_default_dtype(dtype)
    try:
        found = pipe(prompt, seed=1, output_type="pt").images[0]
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, want)
