"""The calling conventions of the ecosystem: sizes and ratios, generators, prompts that were encoded before."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stagevar.calling import expand
from stagevar.errors import OptionError, PromptError, SizeError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import EncodedPrompt, Request
from stagevar.sizes import another_size

PROMPTS = {"var": ("3", "golden retriever")}


@pytest.fixture(scope="module")
def switti() -> Pipeline:
    """Draws 16x16, 18x12 and 12x24."""
    return Pipeline(tiny("switti"))


def latents(pipe: Pipeline, *arguments: Any, **options: Any) -> Tensor:
    return torch.stack(pipe(*arguments, output_type="latent", **options).images)


# --- sizes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ({}, (16, 16)),
        ({"height": 16, "width": 16}, (16, 16)),
        ({"height": 17, "width": 15}, (16, 16)),
        ({"height": 1000, "width": 2100}, (12, 24)),
        ({"aspect_ratio": 1}, (16, 16)),
        ({"aspect_ratio": "2:3"}, (18, 12)),
        ({"aspect_ratio": "16:9"}, (12, 24)),
        ({"aspect_ratio": 0.6}, (18, 12)),
    ],
)
def test_the_nearest_size_is_drawn_and_reported(
    switti: Pipeline, asked: dict[str, Any], drawn: tuple[int, int]
) -> None:
    result = switti("a cat", seed=1, output_type="pt", **asked)
    assert result.sizes == (drawn,) and result.images[0].shape[1:] == drawn


@pytest.mark.parametrize("asked", [{"height": 17, "width": 15}, {"aspect_ratio": "16:9"}, {"aspect_ratio": 1.1}])
def test_strict_requests_refuse_another_size(switti: Pipeline, asked: dict[str, Any]) -> None:
    with pytest.raises(SizeError, match="switti-tiny draws no"):
        switti("a cat", strict=True, **asked)


def test_sizes_are_told_as_width_times_height(switti: Pipeline) -> None:
    with pytest.raises(SizeError, match=r"no 25x12 pictures \(width x height\); the nearest are 24x12, 16x16, 12x18$"):
        switti("a cat", strict=True, height=12, width=25)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"height": 13, "width": 24}, "drawn at 24x12, the nearest size to 24x13; --strict refuses"),
        ({"aspect_ratio": 3}, "drawn at 24x12, the nearest size to 3:1; --strict refuses"),
        ({"height": 12, "width": 24}, ""),
        ({"aspect_ratio": "2:1"}, ""),
        ({}, ""),
    ],
)
def test_another_size_than_was_asked_for_is_told(switti: Pipeline, asked: dict[str, Any], told: str) -> None:
    request = Request("a cat", **asked)
    assert another_size(request, switti.prepare(request).size) == told


@pytest.mark.parametrize("asked", [{"height": 12, "width": 24}, {"aspect_ratio": "2:1"}, {"aspect_ratio": 0.667}])
def test_strict_requests_take_what_is_native(switti: Pipeline, asked: dict[str, Any]) -> None:
    switti("a cat", strict=True, output_type="latent", **asked)


def test_of_several_sizes_of_a_ratio_that_of_the_default_area_is_taken() -> None:
    pipe = Pipeline(tiny("infinity", budget="0.25M"))
    default = pipe.model.picture_size(pipe.model.schedule())
    schedule = pipe.prepare(Request("a cat", aspect_ratio="2:1")).schedule
    height, width = pipe.model.picture_size(schedule)
    assert width == 2 * height and 0.8 < height * width / (default[0] * default[1]) < 1.25


@pytest.mark.parametrize("family", FAMILIES)
def test_every_size_of_a_family_is_native(family: str) -> None:
    pipe = Pipeline(tiny(family))
    for height, width in pipe.model.sizes():
        schedule = pipe.prepare(Request("3", height=height, width=width, strict=True)).schedule
        assert pipe.model.picture_size(schedule) == (height, width)


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"aspect_ratio": "wide"}, "aspect_ratio"),
        ({"aspect_ratio": "3:0"}, "aspect_ratio"),
        ({"aspect_ratio": -1}, "aspect_ratio"),
        ({"aspect_ratio": float("nan")}, "aspect_ratio"),
        ({"aspect_ratio": "1:2:3"}, "aspect_ratio"),
        ({"aspect_ratio": 1.5, "height": 16, "width": 16}, "not both"),
        ({"strict": "yes"}, "strict"),
    ],
)
def test_bad_sizes_are_named(switti: Pipeline, asked: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        switti("a cat", **asked)


def test_the_command_line_says_what_it_drew(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("generate", "a star", "--size", "70x60", "--seed", 1)
    assert code == 0 and "drawn at 64x64, the nearest size to 70x60" in out
    code, out, _ = command("generate", "a star", "--aspect-ratio", "1:1", "--seed", 1, "--json")
    assert code == 0 and {json.loads(out)["pictures"][0][side] for side in ("height", "width")} == {64}
    code, _, error = command("generate", "a star", "--aspect-ratio", "3:2", "--strict")
    assert code == 2 and "1.5 times as wide as high" in error


# --- generators ---------------------------------------------------------------


def test_a_generator_stands_for_a_seed(switti: Pipeline) -> None:
    def generator(seed: int = 3) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    first = switti("a cat", generator=generator(), num_images_per_prompt=2, output_type="latent")
    again = switti("a cat", seed=first.seeds, num_images_per_prompt=2, output_type="latent")
    assert all(torch.equal(a, b) for a, b in zip(first.images, again.images, strict=True))
    assert first.seeds == switti("a cat", generator=generator(), num_images_per_prompt=2, output_type="latent").seeds
    assert len(set(first.seeds)) == 2
    going = generator()
    assert switti("a cat", generator=going).seeds != switti("a cat", generator=going).seeds
    each = switti(["a cat", "a dog"], generator=[generator(), generator(4)], output_type="latent")
    assert each.seeds[0] == first.seeds[0] != each.seeds[1]


@pytest.mark.parametrize("generator", [7, [7], "cpu", [torch.Generator(), None]])
def test_what_is_no_generator_is_named(generator: Any) -> None:
    with pytest.raises(OptionError, match=r"torch\.Generator"):
        expand(["a", "b"], generator=generator)


def test_generators_are_counted_and_exclude_a_seed() -> None:
    with pytest.raises(OptionError, match="not both"):
        expand("a", seed=1, generator=torch.Generator())
    with pytest.raises(OptionError, match="3 seeds for 2 images"):
        expand(["a", "b"], generator=[torch.Generator()] * 3)


# --- encoded prompts ----------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoded_prompt_draws_what_its_text_draws(family: str) -> None:
    pipe = Pipeline(tiny(family))
    one, two = PROMPTS.get(family, ("a red circle", "a star"))
    plain = latents(pipe, [one, two], negative_prompt=two, seed=5)
    encoded = pipe.encode(one)
    assert encoded.prompt == one and two not in repr(encoded)
    assert torch.equal(latents(pipe, [encoded, two], negative_prompt=pipe.encode(two), seed=5), plain)
    assert torch.equal(
        latents(pipe, encoded, negative_prompt=two, seed=5)[0], latents(pipe, one, negative_prompt=two, seed=5)[0]
    )


def test_an_encoded_prompt_is_not_read_again(switti: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, negative = switti.encode("a cat"), switti.encode("a dog")
    monkeypatch.setattr(switti.model, "encode_text", lambda prompts: pytest.fail(f"read {prompts}"))
    result = switti(encoded, negative_prompt=negative, num_images_per_prompt=3, seed=1, output_type="latent")
    assert result.prompts == ("a cat",) * 3


def test_an_encoded_prompt_belongs_to_its_family(switti: Pipeline) -> None:
    with pytest.raises(OptionError, match="'a cat' was encoded for switti, not for infinity"):
        Pipeline(tiny("infinity"))(switti.encode("a cat"))


def test_what_cannot_be_encoded_is_named() -> None:
    with pytest.raises(PromptError, match="dragon"):
        Pipeline(tiny("scenes")).encode("a purple dragon")


def test_requests_of_equal_texts_are_equal(switti: Pipeline) -> None:
    assert switti.encode("a cat") == EncodedPrompt("a cat", "switti", switti.model.blank_text(1))
