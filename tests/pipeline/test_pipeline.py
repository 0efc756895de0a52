import numpy as np
import pytest
import torch
from PIL import Image

from stagevar.engine.grids.grid import scales
from stagevar.errors import Cancelled, NumericError, OptionError, PromptError, SizeError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import Request


@pytest.fixture(scope="module")
def scenes():
    return Pipeline(tiny("scenes"))


@pytest.fixture(scope="module")
def infinity():
    return Pipeline(tiny("infinity"))


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_prompts_become_pictures(scenes):
    result = scenes(["a red circle", "a star"], num_images_per_prompt=2, seed=3)
    assert [image.size for image in result.images] == [(12, 12)] * 4
    assert result.prompts == ("a red circle", "a red circle", "a star", "a star")
    assert result.seeds == (3, 4, 3, 4)
    assert result.trace.executed(3) == (0, 1, 2, 3, 4)
    assert result.trace.model == "scenes-tiny" and result.trace.network_milliseconds > 0


def test_a_picture_depends_on_its_request_alone(scenes):
    batch = scenes(["a red circle", "a star"], seed=[5, 6])
    for i, prompt in enumerate(["a red circle", "a star"]):
        assert same(scenes(prompt, seed=5 + i).images[0], batch.images[i])
    split = scenes(["a red circle", "a star"], seed=[5, 6], batch_size=1)
    assert all(map(same, split.images, batch.images))


def test_fifty_pictures_in_a_row_leave_no_state(scenes):
    first = scenes("two yellow rings", seed=1).images[0]
    for seed in range(50):
        scenes("a star above a cross", seed=seed, guidance_scale=float(seed % 5))
    assert same(scenes("two yellow rings", seed=1).images[0], first)


@pytest.mark.parametrize("family", ["scenes", "infinity"])
def test_a_model_that_has_drawn_can_be_trained(family):
    model = tiny(family)
    Pipeline(model)("a star", seed=1)
    rope = model.rope(scales(model.schedule())[1], model.condition(model.encode_text(["a star"])))
    assert not rope.is_inference()
    if family == "scenes":
        model.requires_grad_(True)
        condition = model.words_condition(torch.zeros(1, 11, dtype=torch.int64))
        model.embed(model.empty_latent(1, model.schedule()), condition, scales(model.schedule())[1]).sum().backward()


def test_output_types_agree(scenes):
    pil, array, tensor, latent = (
        scenes("a star", seed=2, output_type=kind).images[0] for kind in ("pil", "np", "pt", "latent")
    )
    assert isinstance(pil, Image.Image) and array.shape == (12, 12, 3) and tensor.shape == (3, 12, 12)
    assert latent.shape == (12, 6, 6)
    assert np.array_equal(np.asarray(pil), np.round(array * 255).astype(np.uint8))
    assert np.array_equal(array, tensor.permute(1, 2, 0).numpy())


def test_stream_shows_every_scale_and_ends_with_the_result(scenes):
    events = list(scenes.stream("a star", seed=2))
    assert [event.scale for event in events] == list(range(5)) and events[0].scales == 5
    assert all(event.preview.size == (12, 12) and event.milliseconds > 0 for event in events)
    assert [event.result is not None for event in events] == [False] * 4 + [True]
    assert same(events[-1].preview, events[-1].result.images[0])
    assert same(events[-1].preview, scenes("a star", seed=2).images[0])


def test_previews_may_be_started_at_one_scale_and_taken_after_the_last(scenes):
    started, wanted = [], []
    for event in scenes.stream(["a star", "a red circle"], seed=2):
        started.append(event.start_previews())
        wanted.append(event.previews)
    found = [previews() for previews in started]
    assert len(found) == 5 and all(
        same(a, b) for one, two in zip(found, wanted, strict=True) for a, b in zip(one, two, strict=True)
    )


def test_requests_of_several_sizes_share_a_call(infinity):
    small, wide = (256, 256), (192, 320)
    sizes = [small, wide, small]
    sizes = [
        infinity.model.picture_size(infinity.model.schedule()),
        *(s for s in infinity.model.sizes() if s[0] != s[1]),
    ]
    chosen = [sizes[0], sizes[1], sizes[0]]
    requests = [Request("a cat", seed=i, height=h, width=w) for i, (h, w) in enumerate(chosen)]
    events = list(infinity.events(requests, output_type="latent"))
    result = events[-1].result
    assert {event.images for event in events} == {(0, 2), (1,)}
    for i, request in enumerate(requests):
        alone = list(infinity.events([request], output_type="latent"))[-1].result
        assert torch.allclose(result.images[i], alone.images[0], atol=1e-5)
        assert result.trace.executed(i) == alone.trace.executed(0)


def test_per_image_plans_in_one_batch(scenes):
    short = scenes.prepare(Request("any")).plan.replace([-1], run="skip")
    single = scenes.prepare(Request("any")).plan.replace([-1, -2], branch="cond")
    requests = [
        Request("a star", seed=1),
        Request("a star", seed=1, plan=short),
        Request("a star", seed=1, plan=single),
    ]
    result = list(scenes.events(requests))[-1].result
    assert result.trace.executed(0) == (0, 1, 2, 3, 4) and result.trace.executed(1) == (0, 1, 2, 3)
    assert same(result.images[0], scenes("a star", seed=1).images[0])
    assert same(result.images[1], scenes("a star", seed=1, plan=short).images[0])
    assert not same(result.images[0], result.images[1])


def test_defaults_and_their_override(scenes):
    assert {scale.guidance for scale in scenes.prepare(Request("any")).plan} == {1.0}
    plan = scenes.prepare(Request("a star", guidance_scale=3.0, temperature=(1.0, 0.9, 0.8, 0.7, 0.6), top_k=4)).plan
    assert plan[0].guidance == 3.0 and plan[-1].temperature == 0.6 and plan[2].top_k == 4
    with pytest.raises(OptionError, match="2 entries"):
        scenes("a star", guidance_scale=[1.0, 2.0])


def test_a_model_may_end_guidance_early(scenes, monkeypatch):
    monkeypatch.setattr(type(scenes.model), "branches", lambda self, schedule: ("both",) * 3 + ("cond",) * 2)

    def branches(**fields):
        return [scale.branch for scale in scenes.prepare(Request("a star", **fields)).plan]

    assert branches() == branches(guidance_scale=3.0) == ["both"] * 3 + ["cond"] * 2
    assert branches(guidance_scale=(3.0, 3.0, 3.0, 3.0, 1.0)) == ["both"] * 5
    assert branches(accelerator="guidance_off(1, branch='null')") == branches()
    assert branches(accelerator="guidance_off(3, branch='null')") == ["both"] * 2 + ["null"] * 3
    assert branches(accelerator="stagevar_released(skip=0)") == ["both"] * 2 + ["null"] * 3
    assert {record.branch for record in scenes("a star", seed=1).trace.records[3:]} == {"cond"}


def test_negative_prompts_change_only_their_image(scenes):
    plain = scenes(["a star", "a ring"], seed=[1, 2], guidance_scale=3.0)
    requests = [
        Request("a star", seed=1, guidance_scale=3.0),
        Request("a ring", seed=2, guidance_scale=3.0, negative_prompt="a red ring"),
    ]
    mixed = list(scenes.events(requests))[-1].result
    assert same(mixed.images[0], plain.images[0]) and not same(mixed.images[1], plain.images[1])


def test_callback_and_cancellation(scenes):
    seen = []
    with pytest.raises(Cancelled):
        scenes(
            "a star",
            callback_on_step_end=lambda pipe, index, scale, kwargs: seen.append((pipe, index, scale, *kwargs)),
            cancelled=lambda: len(seen) >= 2,
        )
    assert seen == [(scenes, k, k, "latents", "event") for k in range(2)]


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        ({"prompt": "a purple dragon"}, PromptError, "dragon"),
        ({"prompt": "a star and a star and a star and a star and a star"}, PromptError, "words"),
        ({"prompt": "a star", "height": 100, "width": 100, "strict": True}, SizeError, "12x12"),
        ({"prompt": "a star", "batch_size": 0}, OptionError, "batch_size"),
        ({"prompt": "a star", "batch_size": "4"}, OptionError, "batch_size"),
        ({"prompt": "a star", "steps": 4}, OptionError, "steps"),
        ({"prompt": "a star", "plan": "fast"}, OptionError, "Plan"),
        ({"prompt": "a star", "output_type": "gif"}, OptionError, "gif"),
        ({"prompt": "a star", "num_images_per_prompt": 0}, OptionError, "images"),
    ],
)
def test_bad_input_is_named(scenes, call, error, word):
    with pytest.raises(error, match=word):
        scenes(**call)


def test_prompts_are_no_requests(scenes):
    with pytest.raises(OptionError, match="stream"):
        scenes.events(["a star"])


def test_pictures_that_are_no_numbers_are_not_shown(scenes, monkeypatch):
    monkeypatch.setattr(scenes.model, "decode", lambda latent: torch.full((len(latent), 3, 12, 12), torch.nan))
    with pytest.raises(NumericError, match="tokenizer"):
        scenes("a star")


@pytest.mark.parametrize(
    ("option", "value"), [("device", "abacus"), ("device", "cuda:99"), ("device", "meta"), ("dtype", "int8")]
)
def test_bad_device_and_dtype(option, value):
    with pytest.raises(OptionError, match=value):
        Pipeline.from_pretrained("scenes", **{option: value})
