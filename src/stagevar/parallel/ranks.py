"""Which of the processes that torchrun started this one is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from stagevar.errors import OptionError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets; a process that lacks one runs alone."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of its run.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
        local: number of this process among those of its machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def here(cls) -> Ranks:
        """What the environment says.

        Raises:
            OptionError: a variable is no number, or a number out of range.
        """
        if not all(name in os.environ for name in NAMES):
            return cls()
        try:
            found = cls(*(int(os.environ[name]) for name in NAMES[:3]))
        except ValueError:
            raise OptionError(f"{', '.join(NAMES[:3])} must be whole numbers; torchrun sets them") from None
        if not 0 <= found.rank < found.world:
            raise OptionError(f"RANK {found.rank} is no process of {found.world}; torchrun sets RANK and WORLD_SIZE")
        return found

    def replicas(self, size: int) -> tuple[int, int]:
        """Index and number of the groups of ``size`` processes, each of which holds one network.

        Raises:
            OptionError: the processes do not make up whole groups.
        """
        if size < 1:
            raise OptionError(f"tensor_parallel must be 1 or more, not {size}")
        if self.world % size:
            raise OptionError(
                f"tensor_parallel {size} takes a multiple of {size} processes, and there {_are(self.world)}; start it "
                f"with torchrun --nproc-per-node {size}"
            )
        return self.rank // size, self.world // size


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def portions(count: int, most: int, shares: int) -> list[range]:
    """Positions of ``count`` pictures in batches: equally large but for the last, at most ``most`` of them, and small
    enough that each of ``shares`` processes gets one. Process i draws the batches i, i + shares and so on."""
    size = max(1, min(most, -(-count // shares)))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
