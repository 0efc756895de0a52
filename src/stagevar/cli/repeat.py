"""The request that a picture's file repeats, and the place of its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagevar.cli.options import Place
from stagevar.errors import OptionError, RequestError, quoted, some

if TYPE_CHECKING:
    from PIL.Image import Image

    from stagevar.request import Request

SAMPLING = {"guidance_scale", "temperature", "top_k", "top_p", "smooth", "unconditional"}
REPEATED = {"prompt", "negative_prompt", "seed", "height", "width", "accelerator", *SAMPLING}
"""Settings of a picture that its record holds whole."""


def repeated(picture: Path, device: str, *, local_files_only: bool) -> tuple[Image, dict[str, Any], Request, Place]:
    """A picture, its record, the request that draws it once more, and where its model is from.

    Raises:
        MissingFileError, ForeignCheckpointError: as ``record.read_record``.
        OptionError: it was drawn with a plan of its own, of another picture, or with codes that were given; or its
            record is damaged.
    """
    from stagevar.calling import Drawing
    from stagevar.record import read_record
    from stagevar.request import Request

    image, record = read_record(picture)
    if record.get("plan") is not None:
        raise OptionError(f"{picture} was drawn with a plan of its own, which its record only describes")
    if record.get("edit") is not None:
        raise OptionError(f"{picture} was made of a picture, which its record only describes; use stagevar edit again")
    damaged = f"the record of {picture} is damaged"
    given = record.get("forced") or []
    if not isinstance(given, list):
        raise OptionError(f"{damaged}: forced is {quoted(given)}, no list of scales")
    if given:
        scales = ", ".join(map(quoted, given))
        raise OptionError(f"{picture} was drawn with given codes at scales {scales}, which its record does not hold")
    if strange := sorted(record.keys() & Drawing.__annotations__.keys() - REPEATED - {"plan", "forced"}):
        raise OptionError(f"{damaged}: it holds {some(strange)}, which no record does")
    settings = {name: record[name] for name in REPEATED & record.keys()}
    lists = {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}
    try:
        request = Request(**settings | lists)
    except RequestError as error:
        raise OptionError(f"{damaged}: {error}") from None
    origin = record["origin"]
    weights = None if origin.get("weights") is None else Path(origin["weights"])
    kept: dict[str, Any] = {"dtype": record["dtype"], "quantize": record.get("quantize")}
    kept |= {"revision": origin.get("revision"), "local_files_only": local_files_only}
    return image, record, request, Place(origin["source"], weights, device, **kept)
