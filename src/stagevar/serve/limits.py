"""What one request may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request.

    Attributes:
        body: bytes of its body.
        arrival: seconds within which the body arrives.
        prompt: characters of a prompt.
        pictures: pictures.
        pixels: of a picture, as asked for and as drawn.
        deadline: seconds within which all its pictures are drawn, waiting included.
    """

    body: int = 2**18
    arrival: float = 10.0
    prompt: int = 4000
    pictures: int = 10
    pixels: int = 2**22
    deadline: float = 120.0
