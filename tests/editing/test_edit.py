"""Pictures that begin with a picture: what is kept to the bit, what is drawn, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stagevar.editing.edit import Edit
from stagevar.editing.fit import fitted
from stagevar.errors import OptionError, StagevarError
from stagevar.families.stand_ins import VQ
from stagevar.families.star.second_stage import SamplerConfig
from stagevar.families.tiny import tiny
from stagevar.listing import shipped
from stagevar.pipeline import Pipeline
from stagevar.request import Request

ENCODING = replace(VQ, encoder=True)
PIPES = {name: Pipeline(tiny(name, tokenizer=ENCODING)) for name in ("var", "switti", "hart")}
PIPES["star"] = Pipeline(tiny("star", tokenizer=ENCODING, sampler=SamplerConfig(first=4, rounds=4, last_rounds=5)))
PIPES |= {name: Pipeline(tiny(name)) for name in ("scenes", "infinity")}
families = pytest.mark.parametrize("family", list(PIPES))
SCENES = PIPES["scenes"]
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
MASK = np.zeros((48, 48), dtype=np.uint8)
MASK[8:32, 16:40] = 255


def ask(family: str, **settings: Any) -> Any:
    return PIPES[family]("7" if family == "var" else "a red circle", image=PICTURE, seed=3, **settings)


def same(one: Any, other: Any) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def changed(family: str, result: Any) -> list[Tensor]:
    """Per scale where codes are not those of the picture."""
    codes = PIPES[family].tokenize(PICTURE)
    return [
        (a != b).flatten(2).any(-1) if a.dim() == 3 else a != b for a, b in zip(codes, result.codes[0], strict=True)
    ]


def test_any_strength_above_0_draws_the_last_scale() -> None:
    assert [bool(each.any()) for each in changed("scenes", ask("scenes", strength=1e-12))][:-1] == [False] * 4


def test_a_frame_is_made_at_the_size_that_is_drawn() -> None:
    """At their own size these would have 256 million pixels, and a million million."""
    for edit in (Edit.read(PICTURE, expand=16_000), Edit.read(np.zeros((1, 1_000_000, 3), np.uint8), fit="pad")):
        found = fitted(edit, (64, 64))
        assert found.picture.shape == (3, 64, 64) and found.drawn is not None and 0.9 < float(found.drawn.mean()) < 1


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_picture_lies_where_its_frame_leaves_it(fit: Any) -> None:
    picture = np.full((32, 32, 3), 200, np.uint8)
    found = fitted(Edit.read(picture, expand=(32, 0, 0, 32), fit=fit), (32, 32))
    assert found.drawn is not None and found.drawn[:16, 16:].max() == 0
    assert found.drawn[16:].min() == found.drawn[:, :16].min() == 1
    assert np.allclose(found.picture.numpy(), 200 / 255)


@families
def test_strength_0_is_the_reconstruction_bit_for_bit(family: str) -> None:
    pipe = PIPES[family]
    found = ask(family, strength=0)
    assert same(found.images[0], pipe.detokenize(pipe.tokenize(PICTURE)))
    assert not any(bool(each.any()) for each in changed(family, found))


@families
def test_strength_1_is_plain_drawing(family: str) -> None:
    size = dict(zip(("height", "width"), PIPES[family].model.picture_size(PIPES[family].model.schedule()), strict=True))
    plain = PIPES[family]("7" if family == "var" else "a red circle", seed=3, **size)
    assert same(ask(family, strength=1, **size).images[0], plain.images[0])


@families
def test_strength_names_the_first_scale_that_is_drawn(family: str) -> None:
    found = ask(family, strength=0.5)
    scales = len(found.codes[0])
    drawn = [bool(each.any()) for each in changed(family, found)]
    assert not any(drawn[: scales // 2]) and all(drawn[scales // 2 + 1 :])


@families
def test_codes_outside_a_mask_are_exactly_kept_at_every_scale(family: str) -> None:
    pipe = PIPES[family]
    prepared = pipe.prepare(Request("7", edit=Edit.read(PICTURE, MASK)))
    assert prepared.free is not None
    where = changed(family, ask(family, mask=MASK))
    assert not any(bool(one[~free].any()) for one, free in zip(where, prepared.free, strict=True))
    assert bool(where[-1].any()) and 0.2 < float(prepared.free[-1].float().mean()) < 0.3


def test_every_accelerator_keeps_what_is_outside_a_mask() -> None:
    """And none changes a picture of which nothing is drawn."""
    whole, names = ask("scenes", strength=0), [row.name for row in shipped()]
    free = SCENES.prepare(Request("a red circle", edit=Edit.read(PICTURE, MASK))).free
    assert free is not None
    tried = 0
    for name in names:
        try:
            found = ask("scenes", mask=MASK, accelerator=name)
        except OptionError:  # one that the model does not take
            continue
        tried += 1
        assert not any(bool((one & ~here).any()) for one, here in zip(changed("scenes", found), free, strict=True)), (
            name
        )
        assert same(ask("scenes", strength=0, accelerator=name).images[0], whole.images[0]), name
    assert tried > len(names) / 2


@families
def test_a_picture_of_a_batch_is_the_picture_alone(family: str) -> None:
    pipe, prompts = PIPES[family], ["7", "8"] if family == "var" else ["a red circle", "two yellow rings"]
    together = pipe(prompts, image=[PICTURE, 255 - PICTURE], mask=MASK, seed=3)
    for i, prompt in enumerate(prompts):
        alone = pipe(prompt, image=[PICTURE, 255 - PICTURE][i], mask=MASK, seed=3)
        assert all(torch.equal(a, b) for a, b in zip(together.codes[i], alone.codes[0], strict=True))


def test_the_mask_grows_by_its_soft_edge_towards_the_last_scale() -> None:
    hard, soft = (
        SCENES.prepare(Request("a red circle", edit=Edit.read(PICTURE, MASK, soft_edge=edge))).free for edge in (0, 4)
    )
    assert hard is not None and soft is not None
    assert torch.equal(hard[0], soft[0]) and soft[-1].sum() > hard[-1].sum()
    assert all(bool((one <= other).all()) for one, other in zip(hard, soft, strict=True))


def test_a_picture_is_expanded_by_what_is_drawn_around_it() -> None:
    prepared = SCENES.prepare(Request("a red circle", edit=Edit.read(PICTURE, expand=(48, 0, 0, 0))))
    assert prepared.fitted is not None and prepared.free is not None
    assert prepared.fitted.said == "48x48 padded to 12x12" and prepared.fitted.drawn is not None
    prepared = PIPES["var"].prepare(Request("7", edit=Edit.read(PICTURE, expand=(0, 0, 0, 48))))
    assert prepared.size[0] > prepared.size[1] and prepared.free is not None
    last = prepared.free[-1]
    assert last[-1].all() and not last[0, 1:-1].any()


def test_padding_is_drawn_cropping_and_stretching_leave_nothing_to_draw() -> None:
    for fit, said in (("crop", "cropped"), ("pad", "padded"), ("stretch", "resized")):
        prepared = SCENES.prepare(Request("a red circle", edit=Edit.read(PICTURE[:24], fit=fit)))
        assert prepared.fitted is not None and prepared.free is not None
        assert prepared.fitted.said == f"48x24 {said} to 12x12"
        assert bool(prepared.free[-1].all()) == (fit != "pad")


def test_upscaling_keeps_the_scales_that_the_picture_has() -> None:
    found = PIPES["scenes"]("a red circle", image=PICTURE[:6, :6], upscale=2, seed=1)
    free = SCENES.prepare(Request("a red circle", edit=Edit.read(PICTURE[:6, :6], upscale=2))).free
    assert free is not None and [bool(each.any()) for each in free] == [False, False, False, True, True]
    assert found.images[0].size == (12, 12)


def test_a_user_is_told_how_a_picture_is_fitted() -> None:
    assert ask("scenes").notes == ("48x48 resized to 12x12",)
    assert SCENES("a red circle").notes == ("",)


def test_a_picture_of_the_models_size_is_read_as_it_is() -> None:
    read = fitted(Edit.read(PICTURE), (48, 48))
    assert torch.equal((read.picture * 255).byte().permute(1, 2, 0), torch.from_numpy(PICTURE)) and read.said == ""


BAD: dict[str, tuple[dict[str, Any], type[StagevarError], str]] = {
    "a mask of another size": ({"mask": MASK[:8]}, OptionError, "the mask has 48x8 pixels and the picture 48x48"),
    "an empty mask": ({"mask": np.zeros_like(MASK)}, OptionError, "the mask is empty"),
    "a mask below one token": ({"mask": np.eye(48) * (np.arange(48) == 0)}, OptionError, "smaller than one token"),
    "strength": ({"strength": 1.5}, OptionError, "strength must be a number between 0 and 1"),
    "strength as text": ({"strength": "much"}, OptionError, "strength must be a number"),
    "soft_edge": ({"soft_edge": float("nan")}, OptionError, "soft_edge must be a number"),
    "expand": ({"expand": (1, 2)}, OptionError, "expand takes pixels"),
    "expand by less": ({"expand": -1}, OptionError, "expand takes pixels"),
    "fit": ({"fit": "squeeze"}, OptionError, "fit must be one of crop, pad, stretch"),
    "upscale beside a mask": ({"upscale": 2, "mask": MASK}, OptionError, "leave strength, mask and expand out"),
    "upscale to nothing": ({"upscale": 2}, OptionError, "leaves nothing to draw"),
    "two pictures for one prompt": ({"image": [PICTURE] * 2}, OptionError, "2 pictures as image for 1 prompts"),
    "no picture": ({"image": None, "mask": MASK}, OptionError, "mask is for pictures"),
    "codes beside a picture": ({"forced": [None] * 5}, OptionError, "an image or forced codes, not both"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_is_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, kind, why = BAD[name]
    monkeypatch.setattr("stagevar.pipeline.draw", None)
    with pytest.raises(kind, match=why):
        SCENES("a red circle", **{"image": PICTURE, **settings})


def test_a_model_without_encoder_says_how_to_load_it() -> None:
    pipe = Pipeline(tiny("var"))
    for ask_ in (lambda: pipe("7", image=PICTURE), lambda: pipe.tokenize(PICTURE)):
        with pytest.raises(OptionError, match="load it with encoder=True"):
            ask_()
