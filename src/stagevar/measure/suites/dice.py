"""How far two readings of pictures agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def dice(found: Sequence[Hashable], final: Sequence[Hashable]) -> float:
    """Dice coefficient of two bags: 1 if both hold the same things, or none."""
    if not found and not final:
        return 1.0
    return 2 * (Counter(found) & Counter(final)).total() / (len(found) + len(final))
