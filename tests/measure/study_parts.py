"""What the tests of study share."""

from __future__ import annotations

STUDIED = [("scenes", None), ("infinity", None), ("infinity", (54, 18)), ("infinity", (56, 70))]
"""Families with a height and width, None for the default."""
