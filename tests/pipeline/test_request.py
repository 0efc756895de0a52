import numpy as np
import pytest
import torch

from stagevar.calling import MAX_IMAGES, expand
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError, PromptError
from stagevar.request import MAX_SEED, Request


@pytest.mark.parametrize(
    ("prompt", "word"),
    [("", "empty"), ("  \n", "empty"), (None, "text"), (3.5, "text"), (b"a", "text"), ("\udc80", "UTF-8")],
)
def test_what_is_no_text_or_empty_is_refused(prompt, word):
    with pytest.raises(PromptError, match=word):
        Request(prompt)
    if not isinstance(prompt, str) or prompt.strip():
        with pytest.raises(PromptError, match=word):
            Request("a star", negative_prompt=[] if prompt is None else prompt)
        with pytest.raises(PromptError, match="text"):
            expand(prompt)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": MAX_SEED + 1}, "seed"),
        ({"height": 0, "width": 64}, "height"),
        ({"height": 64}, "both"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": (1.0, 1e9)}, "guidance_scale"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 1e-9}, "temperature"),
        ({"temperature": (1.0, 1e-9)}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": 1.5}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"height": "64", "width": 64}, "height"),
        ({"guidance_scale": "3"}, "guidance_scale"),
        ({"guidance_scale": ["3"]}, "guidance_scale"),
        ({"top_k": 2.5}, "top_k"),
        ({"top_p": "0.5"}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"smooth": "yes"}, "smooth"),
        ({"plan": Plan.uniform(2), "top_k": 5}, "plan"),
        ({"plan": Plan.uniform(2), "smooth": True}, "plan"),
    ],
)
def test_values_out_of_range_name_the_field(fields, word):
    with pytest.raises(OptionError, match=word):
        Request("a star", **fields)


def test_one_seed_means_the_same_noise_for_every_prompt():
    requests = expand(["a star", "a ring"], num_images_per_prompt=2, seed=7)
    assert [(r.prompt, r.seed) for r in requests] == [("a star", 7), ("a star", 8), ("a ring", 7), ("a ring", 8)]


def test_seeds_per_prompt_and_per_image():
    assert [r.seed for r in expand(["a", "b"], num_images_per_prompt=2, seed=[10, 20])] == [10, 11, 20, 21]
    assert [r.seed for r in expand(["a", "b"], num_images_per_prompt=2, seed=[4, 3, 2, 1])] == [4, 3, 2, 1]
    with pytest.raises(OptionError, match="3 seeds"):
        expand(["a", "b"], num_images_per_prompt=2, seed=[1, 2, 3])


def test_numbers_of_numpy_and_torch_serve_as_well():
    request = Request("a star", seed=np.int64(3), guidance_scale=np.array([1, 2]), temperature=torch.tensor([1.0, 0.5]))
    assert request == Request("a star", seed=3, guidance_scale=(1.0, 2.0), temperature=(1.0, 0.5))
    assert [r.seed for r in expand(["a", "b"], seed=torch.tensor(4))] == [4, 4]
    for several in (np.array([7, 8]), torch.tensor([7, 8])):
        assert [r.seed for r in expand(["a", "b"], seed=several)] == [7, 8]
    assert [r.seed for r in expand(["a", "b"], seed=range(7, 9))] == [7, 8]
    with pytest.raises(OptionError, match="seed"):
        expand("a", seed="7")


def test_a_whole_number_is_a_class():
    assert [r.prompt for r in expand(207)] == ["207"]
    for several in ([207, "golden retriever"], (np.int64(207), "golden retriever")):
        assert [r.prompt for r in expand(several, negative_prompt=1)] == ["207", "golden retriever"]
    assert [r.prompt for r in expand(torch.tensor([1, 2]))] == ["1", "2"]
    assert [r.negative_prompt for r in expand([1, 2], negative_prompt=[3, 4])] == ["3", "4"]
    for wrong in (True, [True], torch.tensor(2.5)):
        with pytest.raises(PromptError, match="text"):
            expand(wrong)


def test_an_unknown_option_is_answered_with_the_known_ones():
    with pytest.raises(OptionError, match=r"'guidance'.*guidance_scale"):
        expand("a star", guidance=3)


def test_no_seed_draws_fresh_ones():
    seeds = {r.seed for r in expand("a star", num_images_per_prompt=8)}
    assert len(seeds) == 8


def test_negative_prompts_one_for_all_or_one_each():
    assert [r.negative_prompt for r in expand(["a", "b"], seed=0, negative_prompt="x")] == ["x", "x"]
    assert [r.negative_prompt for r in expand(["a", "b"], seed=0, negative_prompt=["x", "y"])] == ["x", "y"]
    with pytest.raises(OptionError, match="negative"):
        expand(["a", "b"], negative_prompt=["x"])


def test_all_pictures_of_a_prompt_have_its_negative_prompt():
    requests = expand(["a", "b"], num_images_per_prompt=2, negative_prompt=["x", "y"])
    assert [(r.prompt, r.negative_prompt) for r in requests] == [("a", "x"), ("a", "x"), ("b", "y"), ("b", "y")]


@pytest.mark.parametrize("count", [0, MAX_IMAGES + 1])
def test_number_of_images_is_bounded(count):
    with pytest.raises(OptionError, match=r"image"):
        expand("a star", num_images_per_prompt=count)


def test_no_prompts_at_all():
    with pytest.raises(PromptError):
        expand([])
