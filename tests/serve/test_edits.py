"""Pictures as input: the official client, as it is, against the server."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.serve.limits import EDITS, Limits

from .conftest import Served, serving

PROMPT = "a red circle"
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
HOLE = np.dstack([PIXELS, np.full((12, 12), 255, np.uint8)])
HOLE[4:10, 2:8, 3] = 0


def png(pixels: Any) -> bytes:
    Image.fromarray(pixels).save(buffer := BytesIO(), format="png")
    return buffer.getvalue()


def jpeg(pixels: Any) -> bytes:
    Image.fromarray(pixels).save(buffer := BytesIO(), format="jpeg")
    return buffer.getvalue()


def pixels(text: str | None) -> bytes:
    return Image.open(BytesIO(b64decode(text or ""))).convert("RGB").tobytes()


def test_an_edit_is_the_one_that_python_draws(served: Served, pipelines: dict[str, Pipeline]) -> None:
    more: dict[str, Any] = {"seed": 7, "strength": 0.8, "guidance_scale": [1.0, 2.0, 3.0, 4.0, 5.0], "top_k": 3}
    for mask in (None, png(HOLE)):
        given: dict[str, Any] = {} if mask is None else {"mask": ("mask.png", mask)}
        reply = served.client().images.edit(
            image=("a.png", png(PIXELS)), prompt=PROMPT, n=2, size="auto", extra_body=more, **given
        )
        alone = pipelines["scenes"](PROMPT, image=PIXELS, mask=mask, num_images_per_prompt=2, **more)
        assert reply.data is not None and reply.usage is not None
        assert [pixels(each.b64_json) for each in reply.data] == [each.tobytes() for each in alone.images]
        tokens = 2 * sum(h * w for h, w in pipelines["scenes"].model.schedule())
        assert reply.usage.input_tokens_details.image_tokens == reply.usage.output_tokens == tokens


def test_an_edit_is_streamed(served: Served) -> None:
    fields: dict[str, Any] = {"image": png(PIXELS), "prompt": PROMPT, "extra_body": {"seed": 1}}
    events = list(served.client().images.edit(**fields, stream=True, partial_images=2))
    names = ["ImageEditPartialImageEvent", "ImageEditPartialImageEvent", "ImageEditCompletedEvent"]
    assert [type(event).__name__ for event in events] == names
    whole = served.client().images.edit(**fields)
    assert whole.data is not None and events[-1].b64_json == whole.data[0].b64_json


BAD: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "two pictures": ({"image": [png(PIXELS), png(PIXELS)]}, "2 files", "image"),
    "no picture": ({"image": b"none"}, "in no format", "image"),
    "a picture cut off early": ({"image": jpeg(PIXELS)[:200]}, "broken", "image"),
    "a broken picture": ({"image": png(PIXELS)[:60]}, "broken", "image"),
    "another mask": ({"mask": png(PIXELS[:6])}, "give a mask of the picture's size", "mask"),
    "an empty mask": ({"mask": png(np.zeros((12, 12), np.uint8))}, "mask is empty", "mask"),
    "strength": ({"extra_body": {"strength": 2}}, "strength must be a number", "strength"),
    "no number": ({"extra_body": {"strength": "much"}}, "valid number", "strength"),
    "another field": ({"extra_body": {"strenth": 1}}, "use strength", "strenth"),
    "upscale": ({"extra_body": {"upscale": 2}}, "leaves nothing to draw", "upscale"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(served: Served, name: str) -> None:
    fields, why, param = BAD[name]
    with pytest.raises(openai.BadRequestError, match=why) as refused:
        served.client().images.edit(**{"image": png(PIXELS), "prompt": PROMPT, **fields})
    assert refused.value.param == param


def test_several_values_come_with_commas_or_as_several_fields(served: Served) -> None:
    fields: dict[str, Any] = {"image": png(PIXELS[:, :6]), "prompt": PROMPT, "n": 1}
    replies = [
        served.client().images.edit(**fields, extra_body={"seed": 3, "expand": expand, "top_k": top_k})
        for expand, top_k in (("0,0,6,0", "0,0,1,1,1"), ([0, 0, 6, 0], [0, 0, 1, 1, 1]))
    ]
    one, other = ([each.b64_json for each in reply.data or ()] for reply in replies)
    assert one == other and len(one) == 1


def test_a_small_picture_in_a_large_frame_takes_little_memory(served: Served) -> None:
    long = png(np.zeros((1, 200_000, 3), np.uint8))
    reply = served.client().images.edit(image=long, prompt=PROMPT, extra_body={"seed": 1, "fit": "pad"})
    assert len(reply.data or ()) == 1


def test_a_body_that_is_no_form_is_refused(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="must be a form"):
        served.client().post(EDITS.removeprefix("/v1"), body={"prompt": PROMPT}, cast_to=object)


def test_pictures_may_be_larger_than_other_bodies() -> None:
    with serving({"scenes": Pipeline(tiny("scenes"))}, limits=Limits(body=1024, upload=4096)) as tight:
        large = png(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
        assert 1024 < len(large) < 4096
        assert tight.client().images.edit(image=large, prompt=PROMPT).data
        with pytest.raises(openai.APIStatusError, match="more than 4096 bytes") as refused:
            tight.client().images.edit(image=large * 3, prompt=PROMPT)
        assert refused.value.status_code == 413


def test_a_model_without_encoder_is_told_of() -> None:
    with serving({"var": Pipeline(tiny("var"))}) as blind, pytest.raises(openai.BadRequestError, match="encoder=True"):
        blind.client().images.edit(image=png(PIXELS), prompt="7")


def test_a_picture_can_be_drawn_without_a_prompt(served: Served, pipelines: dict[str, Pipeline]) -> None:
    reply = served.client().images.generate(prompt="", extra_body={"unconditional": True, "seed": 3})
    assert reply.data is not None
    assert pixels(reply.data[0].b64_json) == pipelines["scenes"]("", unconditional=True, seed=3).images[0].tobytes()


def test_a_model_that_restores_needs_a_picture_and_no_prompt() -> None:
    pipe = Pipeline(tiny("scenes", restores=True, grids=(1, 2, 3, 5, 6)))
    with serving({"restore": pipe, "scenes": Pipeline(tiny("scenes"))}) as served:
        client, image = served.client(), ("a.png", png(PIXELS))
        reply = client.images.edit(image=image, prompt="", model="restore", extra_body={"seed": 1})
        assert reply.data is not None
        assert pixels(reply.data[0].b64_json) == pipe(image=PIXELS, seed=1).images[0].tobytes()
        for ask in (
            lambda: client.images.generate(prompt=PROMPT, model="restore"),
            lambda: client.images.edit(image=image, prompt="", model="scenes"),
            lambda: client.images.edit(image=image, prompt="", model="restore", extra_body={"expand": 3}),
        ):
            with pytest.raises(openai.BadRequestError):
                ask()
