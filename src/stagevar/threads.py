"""How many threads PyTorch computes with on the CPU, and how they wait for one another.

The OpenMP runtime of PyTorch (libgomp) reads its settings once, when torch is imported. By default a thread that waits
spins for milliseconds. Beside one other busy process it so takes the core from the thread that it waits for, and a
picture takes ten times as long. A thread that spins for some microseconds and then sleeps costs nothing measurable on
an idle machine.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

SPINS = "GOMP_SPINCOUNT", "1000"
"""Turns that a waiting thread spins before it sleeps."""

USERS_OWN = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
"""Settings of a user, which stay as they are."""

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def settle() -> None:
    """Set what libgomp reads, unless torch is there already or the user has chosen. ``import stagevar`` calls it."""
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in USERS_OWN):
        os.environ.setdefault(*SPINS)
    cores = quota()
    if cores is not None and cores < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def quota() -> int | None:
    """Cores that a container may use at once, at least 1; None without a limit."""
    with suppress(OSError, ValueError):  # "max" if there is no limit
        allowed, period = (int(word) for word in QUOTA.read_text().split())
        return max(allowed // period, 1)
    return None


def waiting() -> str:
    """How threads wait in this process, for ``stagevar doctor``."""
    for name in USERS_OWN:
        if name in os.environ:
            own = (name, os.environ[name]) != SPINS
            return f"they wait as {name}={os.environ[name]} says{', which is your own' if own else ''}"
    return "they spin while they wait; import stagevar before torch, or set GOMP_SPINCOUNT=1000"
