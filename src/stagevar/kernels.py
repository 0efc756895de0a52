"""How many compiled matrix kernels PyTorch keeps on the CPU.

oneDNN compiles a product for its number of rows, and keeps it in a cache; PyTorch keeps the description that it was
compiled from in another, one per thread. Both hold 1024 entries by default, of .6 and .25 MB. An accelerator that
chooses rows by the picture has other numbers of rows for every picture, so that a process would grow by up to 870 MB.
To compile one anew takes .3 ms.
"""

from __future__ import annotations

import os
import sys

KEPT = "128"
"""Entries of each cache: more than the shapes of one picture, in any family."""

CAPACITIES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"
"""What oneDNN and PyTorch read once. A user's own settings stay as they are."""


def settle() -> None:
    """Set both, unless torch is there already or the user has chosen. ``import stagevar`` calls it."""
    if "torch" not in sys.modules:
        for name in CAPACITIES:
            os.environ.setdefault(name, KEPT)
