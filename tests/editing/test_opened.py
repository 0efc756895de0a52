"""Pictures and masks of users: formats, modes, EXIF, and what is refused."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stagevar.editing import opened
from stagevar.editing.opened import open_mask, open_picture
from stagevar.errors import MissingFileError, OptionError, SizeError, StagevarError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def png(image: Image.Image, **settings: Any) -> bytes:
    image.save(buffer := BytesIO(), format=settings.pop("format", "png"), **settings)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image)


def test_a_picture_is_the_same_from_every_source(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    (tmp_path / "a.png").write_bytes(png(image))
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255
    for given in (
        image,
        PIXELS,
        PIXELS / 255,
        tensor,
        (255 * tensor).byte(),
        png(image),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ):
        assert np.array_equal(pixels(open_picture(given)), PIXELS)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "HSV", "YCbCr", "I", "I;16", "F", "PA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.fromarray(PIXELS[..., 0])
    if mode in ("I", "I;16"):
        image = Image.fromarray(PIXELS[..., 0].astype(np.int32 if mode == "I" else np.uint16) * 257)
    else:
        image = Image.fromarray(PIXELS[..., 0] / np.float32(255)) if mode == "F" else grey.convert("L").convert(mode)
    assert image.mode == mode
    found = open_picture(image)
    assert found.mode == "RGB" and found.size == (9, 6)
    if mode != "1":
        assert np.abs(pixels(found)[..., 0].astype(int) - PIXELS[..., 0]).max() <= 2


def test_an_empty_picture_and_complex_numbers_are_refused() -> None:
    with pytest.raises(SizeError, match="the picture is empty: it has 0x5 pixels"):
        open_picture(Image.new("RGB", (0, 5)))
    with pytest.raises(OptionError, match=r"numbers in \[0, 1\], or bytes, not torch.complex64"):
        open_picture(torch.zeros(3, 6, 9, dtype=torch.complex64))


def test_what_is_transparent_is_white_in_a_picture_and_drawn_in_a_mask() -> None:
    rgba = np.dstack([PIXELS, np.full((6, 9), 255, np.uint8)])
    rgba[:, :4, 3] = 0
    image = Image.fromarray(rgba)
    assert (pixels(open_picture(png(image)))[:, :4] == 255).all()
    assert np.array_equal(pixels(open_picture(png(image)))[:, 4:], PIXELS[:, 4:])
    assert np.array_equal(pixels(open_mask(png(image))) == 255, rgba[..., 3] == 0)
    assert np.array_equal(pixels(open_mask(np.eye(5, dtype=bool))), 255 * np.eye(5, dtype=np.uint8))


def test_a_photograph_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    found = open_picture(png(Image.fromarray(PIXELS), exif=exif))
    assert np.array_equal(pixels(found), np.rot90(PIXELS, -1))


def animated() -> bytes:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    return png(frames[0], format="gif", save_all=True, append_images=frames[1:])


def damaged_exif() -> bytes:
    """A JPEG whose EXIF block claims more than it has."""
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = png(Image.fromarray(PIXELS), format="jpeg", exif=exif)
    return whole.replace(b"Exif\x00\x00MM\x00*\x00\x00\x00\x08", b"Exif\x00\x00MM\x00*\xff\xff\xff\x08")


BAD: dict[str, tuple[Any, type[StagevarError], str]] = {
    "animated": (animated(), OptionError, "2 frames"),
    "cut off": (png(Image.fromarray(PIXELS))[:60], OptionError, "broken"),
    "no picture": (b"no picture", OptionError, "no format"),
    "cut off early": (png(Image.fromarray(PIXELS), format="jpeg")[:30], OptionError, "broken|no format"),
    "unreadable EXIF": (damaged_exif(), OptionError, "broken"),
    "another colour space": (Image.new("La", (4, 4)), OptionError, "broken"),
    "negative numbers": (Image.fromarray(PIXELS[..., 0].astype(np.int32) - 300), OptionError, "outside of 0 to 255"),
    "large floats": (Image.fromarray(PIXELS[..., 0] * np.float32(2)), OptionError, "outside of 0 to 255"),
    "texts": (np.full((2, 2, 3), "a"), OptionError, "numbers in"),
    "objects": (np.full((2, 2, 3), None), OptionError, "numbers in"),
    "empty": (b"", OptionError, "no format"),
    "missing": ("/no/such/file.png", MissingFileError, "No such file"),
    "a folder": (Path("/"), MissingFileError, "directory"),
    "another shape": (PIXELS[..., :2], OptionError, "height, width, 3"),
    "no array": (7, OptionError, "must be a path"),
    "large numbers": (PIXELS.astype(float), OptionError, r"\[0, 1\]"),
    "nan": (np.full((2, 2, 3), np.nan), OptionError, r"\[0, 1\]"),
}


def test_the_first_view_of_a_camera_that_takes_several_is_read() -> None:
    views = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    found = open_picture(png(views[0], format="mpo", save_all=True, append_images=views[1:]))
    assert np.abs(pixels(found).mean() - PIXELS.mean()) < 5


@pytest.mark.parametrize("mode", ["I", "F"])
def test_bytes_of_a_wider_mode_stay_bytes(mode: str) -> None:
    grey = Image.fromarray(PIXELS[..., 0])
    assert np.array_equal(pixels(open_picture(grey.convert(mode)))[..., 0], PIXELS[..., 0])


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused(name: str) -> None:
    given, kind, why = BAD[name]
    for read in (open_picture,) if isinstance(given, np.ndarray) else (open_picture, open_mask):
        with pytest.raises(kind, match=why):
            read(given)


def test_too_large_a_picture_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "MOST_PIXELS", 53)
    with pytest.raises(SizeError, match="9x6 pixels; at most 53"):
        open_picture(PIXELS)
    data = png(Image.fromarray(PIXELS))
    with pytest.raises(SizeError, match="9x6 pixels; at most 53"):
        open_picture(data[: data.index(b"IDAT") + 8])
