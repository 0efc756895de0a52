"""The record that a picture carries in its file: all that repeats it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stagevar import __version__
from stagevar.calling import MAX_IMAGES
from stagevar.engine.loop.trace import Trace
from stagevar.errors import CheckpointError, ForeignCheckpointError, MissingFileError

RECORD = "stagevar"
"""Text field of a picture that holds the record, as JSON."""


def records(trace: Trace) -> list[dict[str, Any]]:
    """Per picture all that repeats it: model, origin, settings, dtype, and in half precision, where rounding depends on
    it, how many shared its batch."""
    kept = {name: trace.machine[name] for name in ("dtype", "quantize", "stagevar", "torch")}
    if kept["dtype"] != "float32":
        kept["batch"] = len(trace.pictures)
    return [{"model": trace.model, "origin": trace.origin, **picture, **kept} for picture in trace.pictures]


def png_fields(record: Mapping[str, Any]) -> PngInfo:
    """Text fields of a PNG file: prompt, seed and model for other programs, and the record."""
    fields = PngInfo()
    shown = {name: record[name] for name in ("prompt", "seed", "model")}
    for key, value in {**shown, "Software": f"stagevar {__version__}", RECORD: json.dumps(record)}.items():
        fields.add_itxt(key, str(value))
    return fields


def read_record(path: Path) -> tuple[Image.Image, dict[str, Any]]:
    """A picture and the record of how it was drawn.

    Raises:
        MissingFileError: there is no such picture.
        ForeignCheckpointError: it holds no record of this package.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path.expanduser()) as opened:
                image, text = opened.convert("RGB"), str(opened.info.get(RECORD, ""))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise MissingFileError(f"cannot read picture {path}: it has more pixels than any that was drawn") from None
    except Exception as error:  # of a damaged file, Pillow raises whatever its readers do
        why = getattr(error, "strerror", None) or "it is no picture"
        raise MissingFileError(f"cannot read picture {path}: {why}") from None
    with suppress(ValueError, RecursionError):
        record = json.loads(text)
        if isinstance(record, dict) and _repeats(record):
            return image, record
    raise ForeignCheckpointError(f"{path} does not say how it was made; pictures of `stagevar generate` do")


def is_own(path: Path) -> bool:
    """Whether a file is a picture of this package, whose place another one may take."""
    try:
        read_record(path)
    except CheckpointError:
        return False
    return True


def _repeats(record: Mapping[str, Any]) -> bool:
    """Whether a record says what was drawn, by which model, in which dtype and how large a batch."""
    origin, batch = record.get("origin"), record.get("batch", 1)
    if not isinstance(origin, dict) or not {"prompt", "seed"} <= record.keys():
        return False
    texts = origin.get("source"), record.get("dtype"), origin.get("weights") or "", origin.get("revision") or ""
    return all(isinstance(text, str) for text in texts) and isinstance(batch, int) and 0 < batch <= MAX_IMAGES
