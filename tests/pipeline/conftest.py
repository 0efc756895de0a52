"""A real text encoder with random weights."""

from ..infinity_files import text_encoder  # noqa: F401
