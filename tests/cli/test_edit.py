"""`stagevar edit` on a small random model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.pipeline import Pipeline

from .cli_parts import Run, failure, files, picture

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of the model's size, and one that is twice as wide; a mask beside it."""
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    Image.fromarray(np.hstack([PIXELS, PIXELS])).save(tmp_path / "wide.png")
    Image.fromarray(np.tri(16, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    return tmp_path / "photo.png"


def test_a_picture_is_the_one_that_python_draws(command: Run, model: Path, photo: Path) -> None:
    options = "--seed", 3, "--top-k", "1,2,3,4", "--top-p", "0.5,1,1,1", "--strength", 0.75, "--soft-edge", 2
    code, out, _ = command("edit", photo, "a red circle", "--mask", "mask.png", "-m", model, *options)
    assert code == 0 and "a-red-circle-3.png" in out
    settings = {"strength": 0.75, "soft_edge": 2, "top_k": (1, 2, 3, 4), "top_p": (0.5, 1.0, 1.0, 1.0)}
    alone = Pipeline.from_pretrained(model)("a red circle", image=photo, mask=Path("mask.png"), seed=3, **settings)
    assert picture(Path("out/a-red-circle-3.png")).tobytes() == alone.images[0].tobytes()


def test_a_user_is_told_how_the_picture_is_fitted(command: Run, model: Path, photo: Path) -> None:
    for fit, said in (("crop", "cropped"), ("pad", "padded"), ("stretch", "resized")):
        code, out, _ = command("edit", "wide.png", "a star", "--fit", fit, "-m", model)
        assert code == 0 and f"the picture of 32x16 {said} to 16x16" in out
    assert "the picture of" not in command("edit", photo, "a star", "-m", model)[1]


def test_a_picture_grows_at_its_sides_and_in_its_detail(command: Run, model: Path, photo: Path) -> None:
    Image.fromarray(PIXELS[:8, :8]).save("small.png")
    for source, option, value in (
        (photo, "--expand", "4,0,4,0"),
        (photo, "--expand", 3),
        ("small.png", "--upscale", 2),
    ):
        code, out, _ = command("edit", source, "a star", option, value, "-m", model, "--json")
        record = json.loads(out)["pictures"][0]
        assert code == 0 and picture(Path(record["file"])).size == (16, 16)
        assert record["edit"]["expand" if option == "--expand" else "upscale"] is not None


def test_a_picture_can_be_drawn_without_a_prompt(command: Run, model: Path) -> None:
    assert command("generate", "--unconditional", "--seed", 1, "-m", model)[0] == 0
    assert files(Path("out")) == ["picture-1.png"]
    assert "has no prompt" in failure(command("generate", "a star", "--unconditional", "-m", model), 2)


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("none.png", "a star"), 4, "cannot read picture"),
        (("photo.png", "a star", "--mask", "wide.png"), 2, "give a mask of the picture's size"),
        (("photo.png", "a star", "--strength", 2), 2, "strength must be a number between 0 and 1"),
        (("photo.png", "a star", "--expand", "1,2"), 2, "expand takes pixels"),
        (("photo.png", "a star", "--expand", "1.5"), 2, "--expand takes whole numbers"),
        (("photo.png", "a star", "--fit", "squeeze"), 2, "fit must be one of"),
        (("photo.png", "a star", "--top-k", "1.5"), 2, "--top-k takes whole numbers"),
    ],
)
def test_bad_input_is_one_line(
    command: Run, model: Path, photo: Path, arguments: tuple[object, ...], code: int, why: str
) -> None:
    assert why in failure(command("edit", *arguments, "-m", model), code)
    assert not Path("out").exists()


def test_again_says_that_it_has_no_picture_to_begin_with(command: Run, model: Path, photo: Path) -> None:
    command("edit", photo, "a star", "--seed", 1, "-m", model)
    assert "use stagevar edit again" in failure(command("again", "out/a-star-1.png"), 2)


def test_a_model_that_restores_needs_no_prompt_and_no_other_model_does_without(
    command: Run, model: Path, photo: Path, tmp_path: Path
) -> None:
    save_model(tiny("scenes", restores=True, grids=(1, 2, 3, 5, 8)), tmp_path / "restore")
    code, _, _ = command("edit", photo, "-m", "restore", "-o", "clean.png", "--seed", 1, "-a", "outlines", "-q")
    alone = Pipeline.from_pretrained(tmp_path / "restore")(image=photo, seed=1, accelerator="outlines")
    assert code == 0 and picture(Path("clean.png")).tobytes() == alone.images[0].tobytes()
    assert command("edit", photo, "a red circle", "-m", "restore", "-o", "worded.png", "-q")[0] == 0
    assert "say what to draw" in failure(command("edit", photo, "-m", model), 2)
    assert "restores a picture" in failure(command("generate", "a star", "-m", "restore"), 2)
    assert "nothing around it" in failure(command("edit", photo, "-m", "restore", "--expand", 3), 2)
    assert command("doctor", "restore")[0] == 0
