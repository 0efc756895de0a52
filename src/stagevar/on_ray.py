"""A connection to a Ray cluster, a running one or one on this machine, and what a worker of it may have."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stagevar.errors import MissingExtraError, OptionError, ServiceError, first_line

PATIENCE = 10.0
"""Seconds within which a cluster's head accepts a connection."""


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster for as long as the block runs.

    Args:
        address: of a running cluster; "" starts one on this machine, which ends with the block.

    Raises:
        MissingExtraError: Ray is not installed.
        OptionError: there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # its own is 15: all else on the machine goes first
    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:
        raise OptionError(f"there is no Ray cluster at {address or 'this machine'}: {first_line(error)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def require_cluster(ray: Any) -> None:
    """Raise unless the cluster's head answers. Ray itself would end this process a minute after it has gone.

    Raises:
        ServiceError
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        said = f"the Ray cluster at {host}:{port} has gone ({first_line(error)})"
        raise ServiceError(f"{said}; what was finished is safe, and the same command goes on when it is back") from None


def shares(ray: Any, count: int, most: int = 0) -> tuple[int, dict[str, int]]:
    """How many workers there are, and what Ray reserves for each: a GPU where the cluster has any, else CPUs.

    Args:
        ray: as connected.
        count: workers that are wanted; 0 takes one per GPU, or one per two CPUs.
        most: workers that there may be later, which have the CPUs of the cluster to share.

    Raises:
        OptionError: the cluster has fewer devices.
    """
    has = ray.cluster_resources()
    gpus, cpus = int(has.get("GPU", 0)), int(has.get("CPU", 1))
    count = count or gpus or max(1, cpus // 2)
    if count > (gpus or cpus):
        raise OptionError(f"{count} workers need a device each; the cluster has {gpus} GPUs and {cpus} CPUs")
    return count, {"num_gpus": 1} if gpus else {"num_cpus": max(1, cpus // max(count, most))}
