"""`stagevar again`: a picture is drawn once more from the record in its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stagevar.pipeline import Pipeline
from stagevar.record import png_fields, records

from .cli_parts import Run, failure, picture


def test_a_picture_is_drawn_again_from_its_file(command: Run, model: Path) -> None:
    options = ("--seed", 7, "--guidance", "1,2,3,2", "--temperature", 0.8, "--negative", "a ring", "-a", "drop_last(1)")
    assert command("generate", "a star", "-m", model, *options, "-o", "one", "-q")[0] == 0
    code, out, _ = command("again", "one/a-star-7.png", "-o", "two")
    assert code == 0 and "the same picture" in out
    one, two = picture("one/a-star-7.png"), picture("two/a-star-7.png")
    assert one.tobytes() == two.tobytes()
    assert json.loads(one.info["stagevar"]) == json.loads(two.info["stagevar"])


def test_a_picture_of_a_batch_in_half_precision_is_drawn_again(command: Run) -> None:
    options = ("--dtype", "bf16", "-n", 3, "--seed", 5, "-o", "one", "-q")
    assert command("generate", "a red circle", *options)[0] == 0
    code, out, _ = command("again", "one/a-red-circle-6.png", "-o", "two", "--json")
    [drawn] = json.loads(out)["pictures"]
    assert code == 0 and drawn["same"] and drawn["batch"] == 3


@pytest.mark.parametrize("door", ["again", "why"])
def test_a_picture_of_given_codes_is_not_taken_for_one_that_was_drawn(command: Run, door: str) -> None:
    pipe = Pipeline.from_pretrained("scenes")
    codes = pipe("a red circle", seed=1).codes[0]
    drawn = pipe("a red circle", seed=2, forced=(*codes[:4], *(None,) * 6))
    [record] = records(drawn.trace)
    drawn.images[0].save("forced.png", pnginfo=png_fields(record))
    assert "given codes at scales 0, 1, 2, 3" in failure(command(door, "forced.png"), 2)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": None},
        {"origin": "scenes"},
        {"origin": {}},
        {"origin": {"source": "scenes", "weights": 3}},
        {"origin": {"source": "scenes", "revision": ["main"]}},
        {"batch": "all"},
        {"batch": 10**9},
    ],
    ids=str,
)
def test_a_record_that_was_altered_is_refused(command: Run, model: Path, change: dict[str, object]) -> None:
    assert command("generate", "a star", "-m", model, "-o", "star.png", "-q")[0] == 0
    image, fields = picture("star.png"), PngInfo()
    fields.add_itxt("stagevar", json.dumps(json.loads(image.info["stagevar"]) | change))
    image.save("altered.png", pnginfo=fields)
    assert "does not say how it was made" in failure(command("again", "altered.png"), 4)


def test_a_picture_that_does_not_say_how_it_was_made_is_named(command: Run) -> None:
    Image.new("RGB", (4, 4)).save("plain.png")
    Path("text.png").write_text("no picture")
    assert "does not say how it was made" in failure(command("again", "plain.png"), 4)
    assert "cannot read picture" in failure(command("again", "text.png"), 4)
    assert "cannot read picture" in failure(command("again", "none.png"), 4)
