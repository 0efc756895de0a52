"""The threads that PyTorch computes with on the CPU, shared among the batches that are drawn at once.

Coarse scales have too little work for several threads, so that two batches with a core each are drawn sooner than both
in turn with two cores (docs/serving.md has figures). A batch alone has all cores.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock

import torch

from stagevar.pipeline import Pipeline


def default_lanes(pipelines: Iterable[Pipeline]) -> int:
    """Batches to draw at once: two on a CPU with several cores, unless memory is limited, which is foreseen for one."""
    alone = any(pipe.device.type != "cpu" or pipe.max_memory is not None for pipe in pipelines)
    return 1 if alone or torch.get_num_threads() == 1 else 2


class Cores:
    """Counts the batches that are being drawn.

    Attributes:
        busy: how many there are.
    """

    def __init__(self) -> None:
        self.busy, self._all, self._lock = 0, torch.get_num_threads(), Lock()

    def begin(self) -> None:
        """A batch is about to be drawn."""
        with self._lock:
            self.busy += 1

    def end(self) -> None:
        """A batch has been drawn, by this thread."""
        with self._lock:
            self.busy -= 1
        self.share()

    def share(self) -> None:
        """Give this thread its share, which changes with the batches beside it."""
        wanted = max(1, self._all // max(1, self.busy))
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)
