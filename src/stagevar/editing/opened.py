"""A picture or mask of a user, whatever its source, file format and mode."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from stagevar.errors import MissingFileError, OptionError, SizeError, quoted

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

Picture: TypeAlias = "str | Path | bytes | Image | np.ndarray[Any, Any] | Tensor"
"""A file's path or bytes; a PIL image; an array (height, width, 3), uint8 or in [0, 1]; a tensor (3, height, width) in
[0, 1]. Of a mask arrays and tensors have two axes."""

MOST_PIXELS = 2**26
"""Pixels of a picture that is read."""


def open_picture(given: Picture) -> Image:
    """An RGB image, upright as its EXIF data says; what is transparent is white.

    Raises:
        MissingFileError: there is no such file.
        SizeError: more than ``MOST_PIXELS``.
        OptionError: it is no picture, a broken or an animated one, or an array of another shape.
    """
    from PIL import Image

    image = _deep(_opened(given, "picture"))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def open_mask(given: Picture) -> Image:
    """A mask of grey levels: what is 255 is drawn. Where a mask has transparency, what is transparent is drawn, as in
    OpenAI's format; of any other mask what is white is drawn.

    Raises:
        as ``open_picture``.
    """
    from PIL import ImageChops

    image = _deep(_opened(given, "mask"))
    if not image.has_transparency_data:
        return image.convert("L")
    return ImageChops.invert(image.convert("RGBA").getchannel("A"))


def _opened(given: Any, what: str) -> Image:
    """The image, upright."""
    import PIL.Image
    from PIL import ImageOps

    if isinstance(given, PIL.Image.Image):
        opened = given
    elif isinstance(given, str | Path | bytes | bytearray):
        opened = _file(given, what)
    else:
        return _array(given, what)
    try:
        if getattr(opened, "n_frames", 1) > 1:
            raise OptionError(f"the {what} is animated ({opened.n_frames} frames); give one frame of it")  # type: ignore[attr-defined]
        if opened.width * opened.height > MOST_PIXELS:
            raise SizeError(f"the {what} has {opened.width}x{opened.height} pixels; at most {MOST_PIXELS} are read")
        opened.load()
        return ImageOps.exif_transpose(opened)
    except (OSError, ValueError, SyntaxError) as error:
        raise OptionError(f"the {what} is broken: {error}") from None


def _file(given: str | Path | bytes | bytearray, what: str) -> Image:
    """A file's picture, of which only the head has been read."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    file: Any = BytesIO(given) if isinstance(given, bytes | bytearray) else Path(given).expanduser()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # sizes are checked by the caller
            return Image.open(file)
    except UnidentifiedImageError:
        raise OptionError(f"the {what} is in no format that is known; give a PNG, JPEG or WebP file") from None
    except Image.DecompressionBombError:
        raise SizeError(f"the {what} has more than {MOST_PIXELS} pixels") from None
    except OSError as error:
        raise MissingFileError(f"cannot read {what} {given!r}: {error.strerror or error}") from None
    except (ValueError, SyntaxError) as error:
        raise OptionError(f"the {what} is broken: {error}") from None


def _array(given: Any, what: str) -> Image:
    """The image of an array or tensor."""
    import numpy as np
    from PIL import Image
    from torch import Tensor

    if isinstance(given, Tensor):
        given = given.detach().cpu().float()
        given = given.permute(1, 2, 0).numpy() if given.dim() == 3 else given.numpy()
    shapes = {"picture": "(height, width, 3)", "mask": "(height, width)"}
    axes = {"picture": 3, "mask": 2}[what]
    if not isinstance(given, np.ndarray) or given.ndim != axes or (axes == 3 and given.shape[2] != 3) or not given.size:
        raise OptionError(f"the {what} must be a path, an image, or an array {shapes[what]}, not {quoted(given)}")
    if given.dtype != np.uint8:
        numbers = given.astype(np.float32)
        if not (np.isfinite(numbers).all() and 0 <= numbers.min() <= numbers.max() <= 1):
            raise OptionError(f"an array as {what} has numbers in [0, 1], or bytes")
        given = np.round(255 * numbers).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(given))


def _deep(image: Image) -> Image:
    """An image of more than 8 bits as one of 8."""
    if not image.mode.startswith(("I", "F")):
        return image
    import numpy as np
    from PIL import Image

    levels = np.asarray(image, dtype=np.float64) * (255 if image.mode == "F" else 1 / 257)
    return Image.fromarray(np.clip(np.round(levels), 0, 255).astype(np.uint8))
