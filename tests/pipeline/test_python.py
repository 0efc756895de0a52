"""The pipeline as Python code meets it: signatures, names of other libraries, copies, dtypes, threads, reprs."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stagevar.calling import CALL, LOAD, Doors, Drawing
from stagevar.editing.edit import Editing
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.errors import OptionError, PromptError, UnknownModelError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import Request


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(tiny("scenes"))


def latent(pipe: Pipeline, prompt: Any = "a red circle", **options: Any) -> torch.Tensor:
    image: torch.Tensor = pipe(prompt, seed=1, output_type="latent", **options).images[0]
    return image


# --- settings --------------------------------------------------------------------------------------------------------


SPREAD = set(Doors.__annotations__)
"""Settings that the signature takes together."""


def test_every_setting_has_a_name_in_the_signature() -> None:
    names = set(inspect.signature(Pipeline.__call__).parameters)
    assert {"height", "width", "aspect_ratio", "guidance_scale", "plan", "accelerator", "seed", "progress"} <= names
    assert {name for name in Request.__dataclass_fields__ if not name.endswith("encoded")} <= {*names, *SPREAD, "edit"}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("guidance", "guidance_scale"),
        ("num_inference_steps", "accelerator"),
        ("torch_dtype", "dtype of Pipeline.from_pretrained"),
        ("hieght", "height"),
        ("acelerator", "accelerator"),
    ],
)
def test_familiar_and_misspelt_names_are_answered_with_the_right_one(pipe: Pipeline, wrong: str, right: str) -> None:
    with pytest.raises(OptionError, match=f"no option '{wrong}'; use {right}.*batch_size.*progress"):
        pipe("a star", **{wrong: 1})
    with pytest.raises(OptionError, match=f"use {right}"):
        Pipeline.from_pretrained("scenes", **{wrong: 1})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda _: Pipeline.from_pretrained("scenes", revison="x"),
            "'revison'; use revision of .*; options are weights,",
        ),
        (
            lambda _: Pipeline.from_pretrained("scenes", devise="cpu"),
            "'devise'; use device of ",
        ),
        (lambda _: Pipeline.from_pretrained("scenes", cache_dir="x"), "'cache_dir'; use HF_HOME"),
        (lambda pipe: pipe("a star", revision="x"), "'revision'; use revision of Pipeline.from_pretrained; "),
        (lambda pipe: pipe.stream("a star", progress=True), "'progress'; use progress of the call of a pipeline; "),
        (lambda pipe: pipe.stream("a star", hieght=3), "'hieght'; use height; options are .*cancelled$"),
    ],
)
def test_options_are_those_of_the_call_at_hand(pipe: Pipeline, call: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"there is no option {message}"):
        call(pipe)


def test_the_settings_of_a_call_have_types_and_are_all_listed() -> None:
    named = set(inspect.signature(Pipeline.__call__).parameters) - {"self", "prompt", "doors"}
    assert named | SPREAD == set(CALL)
    assert set(inspect.signature(Pipeline.from_pretrained).parameters) - {"source", "unknown"} == set(LOAD)
    drawn = {name for name in Request.__dataclass_fields__ if not name.endswith("encoded")} - {"prompt", "edit"}
    assert drawn | {"num_images_per_prompt", "generator", *Editing.__annotations__} == set(Drawing.__annotations__)


@pytest.mark.parametrize("value", [10**5000, -(10**5000), 2**200], ids=["many digits", "negative", "200 bits"])
def test_very_long_whole_numbers_are_refused_in_few_words(pipe: Pipeline, value: int) -> None:
    names = ("seed", "top_k", "num_images_per_prompt", "guidance_scale", "temperature", "top_p", "aspect_ratio")
    for settings in (*({name: value} for name in names), {"height": value, "width": value}, {"seed": [value]}):
        with pytest.raises(OptionError) as raised:
            pipe("a star", **settings)
        assert len(str(raised.value)) < 300
    with pytest.raises(OptionError):
        pipe("a star", batch_size=value)


def test_events_take_any_iterable_of_requests(pipe: Pipeline) -> None:
    *_, last = pipe.events(Request("a star", seed=seed) for seed in (1, 2))
    assert last.result is not None and last.result.seeds == (1, 2)


def test_a_picture_that_is_not_wanted_any_more_has_no_image(pipe: Pipeline) -> None:
    asked = [Request("a star", seed=seed) for seed in range(3)]
    *_, last = pipe.events(asked, batch_size=2, wanted=lambda image: image == 1)
    assert last.result is not None and last.images == () and [bool(each) for each in last.result.images] == [0, 1, 0]
    alone = pipe("a star", seed=1).images[0]
    assert last.result.images[1].tobytes() == alone.tobytes()


@pytest.mark.parametrize("prompt", [{"prompt": "a star"}, {"a star"}, [{"prompt": "a star"}], None, 1.5, [[]]])
def test_what_is_no_prompt_is_refused(pipe: Pipeline, prompt: Any) -> None:
    with pytest.raises(PromptError):
        pipe(prompt)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda pipe: pipe.encode(["a", "b"]), PromptError),
        (lambda pipe: pipe.encode(""), PromptError),
        (lambda pipe: pipe.events("a star"), OptionError),
        (lambda pipe: pipe.events(Request("a star")), OptionError),
        (lambda pipe: pipe.events([]), PromptError),
        (lambda pipe: pipe.events(None), OptionError),
        (lambda pipe: pipe.events(3), OptionError),
        (lambda pipe: pipe.to("abacus"), OptionError),
        (lambda pipe: pipe.to(dtype="float8"), OptionError),
        (lambda _: Plan("fast"), OptionError),  # type: ignore[arg-type]
        (lambda _: Plan([ScalePlan()]), OptionError),  # type: ignore[arg-type]
        (lambda _: Pipeline("scenes"), OptionError),  # type: ignore[arg-type]
        (lambda _: Pipeline.from_pretrained("no-such-model"), UnknownModelError),
        (lambda _: Pipeline.from_pretrained("scenes", accelerator="warp"), OptionError),
    ],
)
def test_errors_are_typed(pipe: Pipeline, call: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        call(pipe)


def test_all_requests_are_checked_before_the_first_is_drawn(pipe: Pipeline) -> None:
    drawn: list[object] = []
    with pytest.raises(OptionError, match="scales"):
        pipe.events([Request("a star"), Request("a star", accelerator="drop_last(9)")], cancelled=lambda: bool(drawn))
    with pytest.raises(PromptError, match="dragon"):
        pipe(["a star", "a dragon"], batch_size=1, callback_on_step_end=lambda *_: drawn.append(1))
    assert not drawn


def test_ratios_are_numbers_or_texts(pipe: Pipeline) -> None:
    for ratio in (1, 1.0, "1", "1.000", "64:64", "3/3", np.float32(1)):
        assert Request("a star", aspect_ratio=ratio).aspect_ratio == 1
    for ratio in ("1:2:3", "wide", "0:1", "1/0", "nan", float("inf"), ""):
        with pytest.raises(OptionError, match="aspect_ratio"):
            Request("a star", aspect_ratio=ratio)


def test_a_progress_bar_counts_scales(pipe: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipe(["a star", "a ring"], batch_size=1, progress=True)
    assert "10/10" in capsys.readouterr().err
    pipe("a star")
    assert capsys.readouterr().err == ""


# --- copies, places, dtypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_can_be_copied_and_pickled(family: str) -> None:
    pipe, prompt = Pipeline(tiny(family), "drop_last(1)"), 3 if family == "var" else "a red circle"
    want = latent(pipe, prompt)
    for twin in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert torch.equal(latent(twin, prompt), want) and twin.accelerator == pipe.accelerator
        assert twin.model is not pipe.model


@pytest.fixture(scope="module")
def offloaded(text_encoder: Path) -> Any:
    """A real text encoder whose weights wait between prompts."""
    from stagevar.families.text_encoders.t5 import T5Encoder

    return T5Encoder.from_pretrained(text_encoder, offload=True)


def test_a_text_encoder_can_be_copied_and_reads_alike(offloaded: Any) -> None:
    want = offloaded(["a red circle"]).features[0]
    for twin in (copy.deepcopy(offloaded), pickle.loads(pickle.dumps(offloaded))):
        assert torch.equal(twin(["a red circle"]).features[0], want) and twin.offload


def test_an_offloaded_text_encoder_serves_several_threads(offloaded: Any) -> None:
    prompts = [f"a red circle {'and a blue square ' * n}" for n in range(8)]
    want = [offloaded([prompt]).features[0] for prompt in prompts]
    offloaded._states.cache_clear()
    found: dict[int, torch.Tensor] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: offloaded([prompts[i]]).features[0]})) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], want[i]) for i in range(8))


def test_a_pipeline_moves_and_changes_its_dtype(pipe: Pipeline) -> None:
    own = copy.deepcopy(pipe)
    assert own.device == torch.device("cpu") and own.dtype == torch.float32
    assert own.to("cpu", "bf16") is own and own.dtype == torch.bfloat16
    assert own.model.level_bias.dtype == torch.float32  # type: ignore[union-attr]
    assert torch.equal(latent(own.to(torch.float32)), latent(own.to(dtype="fp32")))


@pytest.mark.parametrize("kind", ["pt", "latent"])
def test_outputs_are_ordinary_tensors(pipe: Pipeline, kind: Any) -> None:
    event = None
    for event in pipe.stream("a star", output_type=kind):
        assert not event.latent.is_inference()
    assert event is not None and event.result is not None
    image = event.result.images[0].requires_grad_()
    image.square().sum().backward()
    assert image.grad is not None


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


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_reprs_fit_on_a_screen(pipe: Pipeline, tmp_path: Path) -> None:
    result = pipe(["a star", "a ring"], seed=3, accelerator="drop_last(1)+guidance_off(2)")
    plan = pipe.prepare(Request("a star", guidance_scale=3.0, accelerator="drop_last(1)+guidance_off(2)")).plan
    assert repr(plan).splitlines() == [
        "Plan of 5 scales",
        "  0-1: guidance=3.0",
        "  2-3: branch='cond', guidance=3.0",
        "  4: run='skip', branch='cond', guidance=3.0",
    ]
    for thing in (pipe, plan, result, result.trace):
        assert len(repr(thing)) < 1500 and len(repr(thing).splitlines()) < 20, thing
    assert "2 pictures of 12x12, seeds 3, 3" in repr(result) and "scenes-tiny" in repr(pipe)
    assert "<table>" in result.trace._repr_html_() and "&" not in pipe._repr_html_().replace("&#x27;", "")
    png = result._repr_png_()
    assert png is not None
    (tmp_path / "row.png").write_bytes(png)
    with Image.open(tmp_path / "row.png") as row:
        assert row.size == (24, 12)
    assert pipe("a star", output_type="np")._repr_png_() is None
