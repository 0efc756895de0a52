"""The processes that hold one network together, and what they have to agree on."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from stagevar.parallel.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Group:
    """Processes that run the same calls in the same order, each with its share of the network.

    Attributes:
        mesh: the processes, one-dimensional.
    """

    mesh: DeviceMesh

    @classmethod
    def join(cls, size: int, device: torch.device) -> Group:
        """The group of ``size`` neighbouring processes that this one belongs to. All processes call this.

        Raises:
            OptionError: the processes do not make up whole groups.
        """
        _, count = Ranks.here().replicas(size)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
            atexit.register(_leave)
        return cls(init_device_mesh(device.type, (count, size), mesh_dim_names=("replica", "tensor"))["tensor"])

    @property
    def size(self) -> int:
        return self.mesh.size()

    def same(self, value: Any) -> Any:
        """What the group's first process has here, such as seeds drawn afresh."""
        kept, group = [value], self.mesh.get_group()
        dist.broadcast_object_list(kept, dist.get_global_rank(group, 0), group, torch.device("cpu"))
        return kept[0]

    def asked(self, cancelled: Callable[[], bool] | None) -> Callable[[], bool]:
        """Whether any process of the group wants to stop: all have to leave the loop before the same scale."""

        def answer() -> bool:
            wish = torch.tensor(int(cancelled is not None and cancelled()))
            dist.all_reduce(wish, dist.ReduceOp.MAX, self.mesh.get_group())
            return bool(wish)

        return answer

    def first(self, action: Callable[[], object]) -> None:
        """Let the first of all processes act before the others go on, such as fetch files that all of them read."""
        if dist.get_rank() == 0:
            action()
        dist.broadcast_object_list([None], 0, None, torch.device("cpu"))


def _leave() -> None:
    with suppress(Exception):  # the other processes may have gone
        dist.destroy_process_group()
