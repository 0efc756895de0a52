"""`stagevar again`: a picture is drawn once more from the record in its file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stagevar.cli.repeat import REPEATED
from stagevar.pipeline import Pipeline
from stagevar.record import png_fields, records
from stagevar.request import Request

from .cli_parts import Run, failure, picture


@pytest.fixture(scope="module")
def drawn(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture with its record."""
    trace = (found := Pipeline.from_pretrained(model)("a star", seed=1)).trace
    path = tmp_path_factory.mktemp("drawn") / "star.png"
    found.images[0].save(path, pnginfo=png_fields(records(trace)[0]))
    return path


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


@pytest.mark.parametrize("door", ["again", "why"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "photo.png"}, "it holds image, which no record does"),
        ({"num_images_per_prompt": 3, "generator": 1}, "it holds generator, num_images_per_prompt"),
        ({"forced": 5}, "forced is 5, no list of scales"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"prompt": 5}, "the prompt must be text"),
    ],
    ids=str,
)
def test_a_damaged_record_says_what_is_wrong(
    command: Run, drawn: Path, door: str, change: dict[str, object], said: str
) -> None:
    image, fields = picture(drawn), PngInfo()
    fields.add_itxt("stagevar", json.dumps(json.loads(image.info["stagevar"]) | change))
    image.save("altered.png", pnginfo=fields)
    line = failure(command(door, "altered.png"), 2)
    assert "the record of altered.png is damaged" in line and said in line


def test_a_record_of_no_given_codes_is_repeated(command: Run, drawn: Path) -> None:
    image, fields = picture(drawn), PngInfo()
    fields.add_itxt("stagevar", json.dumps(json.loads(image.info["stagevar"]) | {"forced": []}))
    image.save("altered.png", pnginfo=fields)
    assert "the same picture" in command("again", "altered.png")[1]


def test_what_is_repeated_is_what_a_record_holds(drawn: Path) -> None:
    held = Pipeline.from_pretrained("scenes").prepare(Request("a star")).settings
    assert held.keys() - {"edit", "forced", "plan"} == REPEATED


@pytest.mark.parametrize("error", [IndexError, RuntimeError, TypeError, struct.error])
def test_whatever_a_reader_of_pictures_raises_the_picture_cannot_be_read(
    command: Run, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def opened(*_: object) -> None:
        raise error("broken")

    monkeypatch.setattr("PIL.Image.open", opened)
    assert "cannot read picture crash.bin" in failure(command("again", "crash.bin"), 4)


@pytest.mark.parametrize("door", ["again", "why"])
def test_a_picture_and_json_do_not_share_standard_output(command: Run, drawn: Path, door: str) -> None:
    assert "cannot both go to standard output" in failure(command(door, drawn, "-o", "-", "--json"), 2)


def test_a_file_that_is_no_folder_of_weights_is_not_told_as_one_that_cannot_be_written(
    command: Run, drawn: Path
) -> None:
    image, fields = picture(drawn), PngInfo()
    origin = {"source": "var-d16", "weights": "/dev/zero", "revision": None}
    fields.add_itxt("stagevar", json.dumps(json.loads(image.info["stagevar"]) | {"origin": origin}))
    image.save("altered.png", pnginfo=fields)
    assert "cannot write" not in failure(command("why", "altered.png", "-o", "sheet.png"), 4)


@pytest.mark.parametrize("side", [9_500, 14_000])
def test_a_picture_of_many_pixels_is_refused_before_it_is_unpacked(command: Run, drawn: Path, side: int) -> None:
    fields = PngInfo()
    fields.add_itxt("stagevar", picture(drawn).info["stagevar"])
    Image.new("1", (side, side)).save("large.png", pnginfo=fields)
    assert "more pixels than any that was drawn" in failure(command("again", "large.png"), 4)


def test_a_picture_that_does_not_say_how_it_was_made_is_named(command: Run) -> None:
    Image.new("RGB", (4, 4)).save("plain.png")
    Path("text.png").write_text("no picture")
    assert "does not say how it was made" in failure(command("again", "plain.png"), 4)
    assert "cannot read picture" in failure(command("again", "text.png"), 4)
    assert "cannot read picture" in failure(command("again", "none.png"), 4)
