"""Pictures as bytes."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Self

from PIL.Image import Image

from stagevar.errors import OptionError


@dataclass(frozen=True, slots=True)
class Format:
    """How pictures are written.

    Attributes:
        name: ``png``, ``jpeg`` or ``webp``.
        quality: of jpeg and webp, 0 to 100.
        url: whether a reply holds them as data: URLs.
    """

    name: str
    quality: int
    url: bool

    @classmethod
    def read(cls, name: str | None, compression: int | None, response: str | None) -> Self:
        """The format that a body asks for: png, quality 100 and base64 unless it says so.

        Raises:
            OptionError: png has no lower quality.
        """
        name, quality = name or "png", 100 if compression is None else compression
        if name == "png" and quality != 100:
            raise OptionError("output_compression is for jpeg and webp; png loses nothing")
        return cls(name, quality, response == "url")

    def encoded(self, image: Image) -> str:
        """A picture in base64."""
        settings: dict[str, Any] = {} if self.name == "png" else {"quality": self.quality}
        image.save(buffer := BytesIO(), format=self.name, **settings)
        return b64encode(buffer.getvalue()).decode()
