"""The official client, as it is, against the server."""

from __future__ import annotations

import time
from base64 import b64decode
from io import BytesIO
from typing import Any

import openai
import pytest
from PIL import Image

from stagevar.pipeline import Pipeline

from .conftest import Address, serving

PROMPT = "a red circle"


def opened(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(BytesIO(b64decode(text)))


def extras(**fields: Any) -> dict[str, Any]:
    return {"extra_body": fields}


def test_a_picture_is_the_one_that_python_draws(served: Address, pipelines: dict[str, Pipeline]) -> None:
    settings: dict[str, Any] = {"seed": 7, "guidance_scale": 3.0, "negative_prompt": "a blue star"}
    reply = served.client().images.generate(prompt=PROMPT, **extras(**settings, accelerator="drop_last(1)"))
    alone = pipelines["scenes"](PROMPT, **settings, accelerator="drop_last(1)").images[0]
    assert reply.data is not None and reply.usage is not None
    image = opened(reply.data[0].b64_json)
    assert image.format == "PNG" and image.convert("RGB").tobytes() == alone.tobytes()
    assert reply.size == f"{alone.width}x{alone.height}" and reply.output_format == "png"
    assert reply.usage.output_tokens == sum(h * w for h, w in pipelines["scenes"].model.schedule())
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens > reply.usage.output_tokens
    assert abs(reply.created - time.time()) < 60


def test_several_pictures_count_up_from_the_seed(served: Address, pipelines: dict[str, Pipeline]) -> None:
    reply = served.client().images.generate(prompt=PROMPT, n=3, **extras(seed=5))
    alone = pipelines["scenes"](PROMPT, num_images_per_prompt=3, seed=5).images
    assert reply.data is not None
    found = [opened(each.b64_json).convert("RGB").tobytes() for each in reply.data]
    assert found == [each.tobytes() for each in alone]
    assert [each.seed for each in reply.data] == [5, 6, 7]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "compression"), [("png", None), ("jpeg", None), ("jpeg", 10), ("webp", 0)])
def test_pictures_come_in_the_format_asked_for(served: Address, name: Any, compression: int | None) -> None:
    more: dict[str, Any] = {} if compression is None else {"output_compression": compression}
    reply = served.client().images.generate(prompt=PROMPT, output_format=name, response_format="url", **more)
    assert reply.data is not None and reply.data[0].url is not None
    kind, _, text = reply.data[0].url.partition(";base64,")
    assert kind == f"data:image/{name}" and opened(text).format == name.upper()


@pytest.mark.parametrize("partial", [0, 1, 2, 3])
def test_a_stream_shows_the_picture_as_it_comes(served: Address, partial: int) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "model": "infinity", **extras(seed=2)}
    events = list(served.client().images.generate(**fields, stream=True, partial_images=partial))
    assert [type(event).__name__ for event in events] == ["ImageGenPartialImageEvent"] * partial + [
        "ImageGenCompletedEvent"
    ]
    *partials, last = events
    assert [event.partial_image_index for event in partials] == list(range(partial))  # type: ignore[union-attr]
    whole = served.client().images.generate(**fields)
    assert whole.data is not None and last.b64_json == whole.data[0].b64_json
    assert whole.usage is not None and last.usage.total_tokens == whole.usage.total_tokens  # type: ignore[union-attr]
    assert last.size == whole.size and len({event.b64_json for event in events}) == partial + 1


def test_a_stream_of_several_pictures_says_which(served: Address, pipelines: dict[str, Pipeline]) -> None:
    fields = extras(seed=1, preview_scales=[0, -2], model="infinity")
    events = list(served.client().images.generate(prompt=PROMPT, n=2, stream=True, **fields))
    scales = len(pipelines["infinity"].model.schedule())
    for index in range(2):
        own = [event for event in events if event.image_index == index]  # type: ignore[union-attr]
        assert [getattr(event, "scale", None) for event in own] == [0, scales - 2, None]
        steps = list(pipelines["infinity"].stream(PROMPT, seed=1 + index))
        for event in own[:2]:
            assert opened(event.b64_json).tobytes() == steps[event.scale].preview.tobytes()  # type: ignore[union-attr]


def test_the_size_is_the_nearest_and_reported(served: Address, pipelines: dict[str, Pipeline]) -> None:
    asked = {"model": "infinity", "prompt": PROMPT}
    sizes = {f"{w}x{h}" for h, w in pipelines["infinity"].model.sizes()}
    for size in ("auto", "100x300", "1024x1024"):
        reply = served.client().images.generate(**asked, size=size)  # type: ignore[call-overload]
        assert reply.size in sizes and opened(reply.data[0].b64_json).size == tuple(map(int, reply.size.split("x")))
    with pytest.raises(openai.BadRequestError, match="nearest"):
        served.client().images.generate(**asked, size="100x300", **extras(strict=True))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("quality", "accelerator"), [(0.25, "stagevar(quality=0.25)"), ("low", "stagevar(quality=0.0)")]
)
def test_quality_is_the_dial(served: Address, quality: Any, accelerator: str) -> None:
    one = served.client().images.generate(prompt=PROMPT, quality=quality, **extras(seed=3))
    other = served.client().images.generate(prompt=PROMPT, **extras(seed=3, accelerator=accelerator))
    assert one.data is not None and other.data is not None and one.data[0].b64_json == other.data[0].b64_json
    assert one.accelerator == accelerator and one.quality in ("low", "medium", "high")  # type: ignore[attr-defined]


def test_the_other_name_of_guidance(served: Address) -> None:
    replies = [
        served.client().images.generate(prompt=PROMPT, **extras(seed=3, **{name: 4}))
        for name in ("guidance_scale", "true_cfg_scale")
    ]
    assert replies[0].data == replies[1].data


ERRORS: list[tuple[dict[str, Any], type[openai.APIStatusError], str | None, str]] = [
    ({"prompt": ""}, openai.BadRequestError, "prompt", "empty"),
    ({"prompt": "x" * 5000}, openai.BadRequestError, "prompt", "4000"),
    ({"prompt": 3}, openai.BadRequestError, "prompt", "string"),
    ({"n": 0}, openai.BadRequestError, "n", "greater"),
    ({"n": 11}, openai.BadRequestError, "n", "10"),
    ({"size": "huge"}, openai.BadRequestError, "size", "64x64"),
    ({"size": "9999x9999"}, openai.BadRequestError, "size", "pixels"),
    ({"model": "../../etc"}, openai.NotFoundError, "model", "not served"),
    ({"output_format": "gif"}, openai.BadRequestError, "output_format", "png"),
    ({"output_compression": 50}, openai.BadRequestError, "output_compression", "png"),
    ({"background": "transparent"}, openai.BadRequestError, "background", "opaque"),
    ({"partial_images": 2}, openai.BadRequestError, "partial_images", "stream"),
    ({"seed": -1}, openai.BadRequestError, "seed", "between"),
    ({"guidance_scale": 1e9}, openai.BadRequestError, "guidance_scale", "between"),
    ({"guidance_scale": 1, "true_cfg_scale": 1}, openai.BadRequestError, "guidance_scale", "give one"),
    ({"guidance_scale": [1.0, 2.0]}, openai.BadRequestError, None, "scales"),
    ({"num_inference_steps": 20}, openai.BadRequestError, "num_inference_steps", "every scale is one step"),
    ({"guidence_scale": 20}, openai.BadRequestError, "guidence_scale", "use guidance_scale"),
    ({"width": 64}, openai.BadRequestError, "width", "use size"),
    ({"accelerator": "warp"}, openai.BadRequestError, "accelerator", "there is no accelerator"),
    ({"accelerator": "drop_last(99)"}, openai.BadRequestError, "accelerator", "scales"),
    ({"accelerator": "none", "quality": 0.5}, openai.BadRequestError, "quality", "not both"),
    ({"quality": 7}, openai.BadRequestError, "quality", "between 0 and 1"),
    ({"accelerator": "stagevar_paper(profile='/dev/zero')"}, openai.BadRequestError, "accelerator", "names a file"),
    ({"preview_scales": [99], "stream": True}, openai.BadRequestError, "preview_scales", "between"),
]


@pytest.mark.parametrize(("fields", "kind", "param", "words"), ERRORS, ids=lambda value: str(value)[:40])
def test_every_error_is_the_clients_own(
    served: Address, fields: dict[str, Any], kind: type[openai.APIStatusError], param: str | None, words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        served.client().images.generate(**{"prompt": PROMPT, "extra_body": fields})
    assert caught.value.param == param and caught.value.type == "invalid_request_error" and caught.value.code
    assert caught.value.request_id is not None and caught.value.request_id.startswith("req_")


def test_models_say_what_they_draw(served: Address, pipelines: dict[str, Pipeline]) -> None:
    first, second = served.client().models.list()
    assert (first.id, second.id, first.object) == ("scenes", "infinity", "model")
    assert "stagevar" in first.accelerators and len(second.sizes) > 1  # type: ignore[attr-defined]
    assert served.client().models.retrieve("infinity") == second
    with pytest.raises(openai.NotFoundError, match=r"not served here; there is scenes, infinity") as caught:
        served.client().models.retrieve("a/b")
    assert caught.value.param == "model"


def test_a_key_is_asked_for_where_there_are_any(pipelines: dict[str, Pipeline]) -> None:
    with serving(pipelines, keys=["first", "second"]) as found:
        for key in ("first", "second"):
            assert found.client(key).images.generate(prompt=PROMPT).data
        for key in ("third", "first2", "f"):
            with pytest.raises(openai.AuthenticationError, match="no such API key"):
                found.client(key).images.generate(prompt=PROMPT, **extras(seed=1))
        with pytest.raises(openai.AuthenticationError):
            found.client("third").models.list()


def test_a_client_that_closes_its_stream_is_dropped(pipelines: dict[str, Pipeline]) -> None:
    with serving(pipelines) as found:
        stream = found.client().images.generate(
            prompt=PROMPT, n=10, stream=True, **extras(model="infinity", preview_scales=[0])
        )
        next(iter(stream))
        stream.close()
        until = time.monotonic() + 20
        while b'stagevar_orders_total{end="left"} 1.0' not in found.metrics.text():
            assert time.monotonic() < until, found.metrics.text().decode()
            time.sleep(0.01)
        assert found.client().images.generate(prompt=PROMPT).data, "the server goes on"
