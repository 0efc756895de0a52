"""The request that a picture's file repeats, and the place of its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagevar.cli.options import Place
from stagevar.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

    from stagevar.request import Request


def repeated(picture: Path, device: str, *, local_files_only: bool) -> tuple[Image, dict[str, Any], Request, Place]:
    """A picture, its record, the request that draws it once more, and where its model is from.

    Raises:
        MissingFileError, ForeignCheckpointError: as ``record.read_record``.
        OptionError: it was drawn with a plan of its own, of another picture, or with codes that were given.
    """
    from stagevar.calling import Drawing
    from stagevar.record import read_record
    from stagevar.request import Request

    image, record = read_record(picture)
    if record.get("plan") is not None:
        raise OptionError(f"{picture} was drawn with a plan of its own, which its record only describes")
    if record.get("edit") is not None:
        raise OptionError(f"{picture} was made of a picture, which its record only describes; use stagevar edit again")
    if record.get("forced") is not None:
        scales = ", ".join(map(str, record["forced"]))
        raise OptionError(f"{picture} was drawn with given codes at scales {scales}, which its record does not hold")
    fields = {name: record[name] for name in record.keys() & {"prompt", *Drawing.__annotations__}}
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    origin = record["origin"]
    weights = None if origin.get("weights") is None else Path(origin["weights"])
    kept: dict[str, Any] = {"dtype": record["dtype"], "quantize": record.get("quantize")}
    kept |= {"revision": origin.get("revision"), "local_files_only": local_files_only}
    return image, record, Request(**fields | lists), Place(origin["source"], weights, device, **kept)
