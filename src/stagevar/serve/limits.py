"""Where requests go, and what one of them may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass

PICTURES, EDITS, MODELS = "/v1/images/generations", "/v1/images/edits", "/v1/models"
PATHS = PICTURES, EDITS, MODELS, "/health", "/ready", "/metrics", "/openapi.json"
"""The application's own paths."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request.

    Attributes:
        body: bytes of its body.
        upload: bytes of its body where it holds pictures.
        arrival: seconds within which the body arrives.
        prompt: characters of a prompt.
        pictures: pictures.
        pixels: of a picture, as asked for and as drawn.
        deadline: seconds within which all its pictures are drawn, waiting included.
    """

    body: int = 2**18
    upload: int = 2**24
    arrival: float = 10.0
    prompt: int = 4000
    pictures: int = 10
    pixels: int = 2**22
    deadline: float = 120.0

    def bytes_of(self, path: str) -> int:
        """Bytes of the body of a request for a path."""
        return self.upload if path == EDITS else self.body
