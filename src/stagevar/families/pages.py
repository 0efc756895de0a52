"""Pages of memory-mapped weights that have been copied."""

from __future__ import annotations

import ctypes
import mmap
import sys
from contextlib import suppress

from torch import Tensor

MADV_PAGEOUT = 21
"""Linux's number of this advice; the standard library does not have it."""


def page_out(tensor: Tensor) -> None:
    """Drop a memory-mapped tensor's pages once it has been copied (madvise PAGEOUT), so that peak memory is the copy
    alone and not copy plus file. The tensor stays valid: Linux reads the pages again if they are touched."""
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    begin, end = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end:
        with suppress(OSError, AttributeError):  # a hint: where it cannot be given, nothing changes
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_PAGEOUT)
