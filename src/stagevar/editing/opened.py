"""A picture or mask of a user, whatever its source, file format and mode."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from stagevar.errors import MissingFileError, OptionError, SizeError, StagevarError, quoted

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

Picture: TypeAlias = "str | Path | bytes | Image | np.ndarray[Any, Any] | Tensor"
"""A file's path or bytes; a PIL image; an array (height, width, 3) or a tensor (3, height, width), uint8 or in [0, 1].
Of a mask arrays and tensors have two axes."""

MOST_PIXELS = 2**26
"""Pixels of a picture that is read."""


MANY_VIEWS = "MPO"
"""Format of cameras that keep further views behind the picture; the first one is the picture."""


def open_picture(given: Picture) -> Image:
    """An RGB image, upright as its EXIF data says; what is transparent is white.

    Raises:
        MissingFileError: there is no such file.
        SizeError: more than ``MOST_PIXELS``, or none.
        OptionError: it is no picture, a broken one or one of several frames, or an array of another shape.
    """
    return _opened(given, "picture", _colours)


def open_mask(given: Picture) -> Image:
    """A mask of grey levels: what is 255 is drawn. Where a mask has transparency, what is transparent is drawn, as in
    OpenAI's format; of any other mask what is white is drawn.

    Raises:
        as ``open_picture``.
    """
    return _opened(given, "mask", _levels)


def _opened(given: Any, what: str, converted: Callable[[Image], Image]) -> Image:
    """The image, upright and converted."""
    import PIL.Image
    from PIL import ImageOps

    try:
        if isinstance(given, PIL.Image.Image):
            image = given
        elif isinstance(given, str | Path | bytes | bytearray):
            image = _file(given, what)
        else:
            image = _array(given, what)
        frames = 1 if image.format == MANY_VIEWS else getattr(image, "n_frames", 1)
        if frames > 1:
            raise OptionError(f"the {what} is animated or has several pages ({frames} frames); give one of them")
        _check_size(image.width, image.height, what)
        image.load()
        return converted(_deep(ImageOps.exif_transpose(image), what))
    except StagevarError:
        raise
    except Exception as error:  # decoders of broken files raise errors of every kind
        raise OptionError(f"the {what} is broken: {str(error) or type(error).__name__}") from None


def _check_size(width: int, height: int, what: str) -> None:
    if not width * height:
        raise SizeError(f"the {what} is empty: it has {width}x{height} pixels")
    if width * height > MOST_PIXELS:
        raise SizeError(f"the {what} has {width}x{height} pixels; at most {MOST_PIXELS} are read")


def _colours(image: Image) -> Image:
    """RGB, white where it is transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _levels(image: Image) -> Image:
    """Grey levels, or how transparent it is."""
    from PIL import ImageChops

    if not image.has_transparency_data:
        return image.convert("RGB" if image.mode == "LAB" else "L").convert("L")
    return ImageChops.invert(image.convert("RGBA").getchannel("A"))


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
        if error.errno is None:
            raise
        raise MissingFileError(f"cannot read {what} {file}: {error.strerror}") from None


def _array(given: Any, what: str) -> Image:
    """The image of an array or tensor."""
    import numpy as np
    import torch
    from PIL import Image

    if isinstance(given, torch.Tensor):
        if given.is_complex():
            raise OptionError(f"a tensor as {what} has numbers in [0, 1], or bytes, not {given.dtype}")
        given = given.detach().cpu() if given.dtype == torch.uint8 else given.detach().cpu().float()
        given = given.permute(1, 2, 0).numpy() if given.dim() == 3 else given.numpy()
    shapes = {"picture": "(height, width, 3)", "mask": "(height, width)"}
    axes = {"picture": 3, "mask": 2}[what]
    if not isinstance(given, np.ndarray) or given.ndim != axes or (axes == 3 and given.shape[2] != 3) or not given.size:
        raise OptionError(f"the {what} must be a path, an image, or an array {shapes[what]}, not {quoted(given)}")
    if given.dtype.kind not in "fiub":
        raise OptionError(f"an array as {what} has numbers in [0, 1], or bytes, not {given.dtype}")
    _check_size(given.shape[1], given.shape[0], what)
    if given.dtype != np.uint8:
        numbers = given.astype(np.float32)
        if not (np.isfinite(numbers).all() and 0 <= numbers.min() <= numbers.max() <= 1):
            raise OptionError(f"an array as {what} has numbers in [0, 1], or bytes")
        given = np.round(255 * numbers).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(given))


def _deep(image: Image, what: str) -> Image:
    """An image of more than 8 bits as one of 8: whole numbers up to 255 or 65535, others up to 1 or 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    import numpy as np
    from PIL import Image

    numbers = np.asarray(image, dtype=np.float64)
    least, most = (1, 255) if image.mode == "F" else (255, 65535)
    if not image.mode.startswith("I;16") and numbers.max() <= least:
        most = least
    if not 0 <= numbers.min() <= numbers.max() <= most:
        raise OptionError(f"the {what} has numbers outside of 0 to {most}; give it with 8 bits per channel")
    return Image.fromarray(np.round(numbers * (255 / most)).astype(np.uint8))
