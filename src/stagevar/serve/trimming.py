"""Memory that the C library keeps behind a batch goes back to the system.

glibc keeps what was freed for later requests, in pieces that the next batch often does not fit into: a process that had
drawn batches of many sizes held twice what it needed.
"""

from __future__ import annotations

import asyncio
import ctypes
from contextlib import suppress

PAUSE = 30.0
"""Seconds between two times; each takes the allocator some 50 ms for a freed GB."""


async def trim_regularly() -> None:
    """Give freed memory back every ``PAUSE`` seconds until the task is cancelled."""
    while True:
        await asyncio.sleep(PAUSE)
        await asyncio.to_thread(trim)


def trim() -> None:
    """Give freed memory back, where the C library is glibc; elsewhere do nothing."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
