"""What the tests of study share."""

from __future__ import annotations

from stagevar.scenes.captions import caption_suite

STUDIED = [("scenes", None), ("infinity", None), ("infinity", (54, 18)), ("infinity", (56, 70))]
"""Families with a height and width, None for the default."""


def captions(count: int) -> list[str]:
    """Prompts that every model of texts can draw."""
    return [scene.caption for scene in caption_suite(count)]
