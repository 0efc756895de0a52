"""Replicas of the server on Ray Serve, behind one address.

Each replica is the application of ``app.py`` in a process of its own, with its own models, queue and batches. Ray sends
a request to the less busy of two of them, starts more while they are busy, and replaces one that draws no more.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI

from stagevar.errors import MissingExtraError, OptionError, StagevarError, Terminated, first_line
from stagevar.on_ray import connected, shares
from stagevar.pipeline import Pipeline
from stagevar.serve.app import application
from stagevar.serve.limits import Limits
from stagevar.serve.metrics import Metrics
from stagevar.serve.scheduler import Scheduler
from stagevar.serve.server import STOPPING, free_port, write_log

NAME = "stagevar"
"""Of the application within a cluster."""

PATIENCE = 120
"""Seconds that Ray's front may take to start; Ray itself waits for 5, too few on a busy machine."""

LOOK = 1.0
"""Seconds between two looks at how the replicas are."""


@dataclass(frozen=True)
class Served:
    """What every replica serves.

    Attributes:
        load: gives the models by name; called in each replica.
        batch, wait, queue, lanes: as in ``Scheduler``, for each replica.
        limits, keys, log_prompts, started: as in ``application``; all replicas say the same.
    """

    load: Callable[[], Mapping[str, Pipeline]]
    batch: int = 16
    wait: float = 0.01
    queue: int = 64
    lanes: int = 0
    limits: Limits = field(default_factory=Limits)
    keys: Sequence[str] = ()
    log_prompts: bool = False
    started: int = field(default_factory=lambda: int(time.time()))


class Replica:
    """One replica: loads the models, then serves."""

    def __init__(self, served: Served) -> None:
        write_log()
        name = f"{socket.gethostname()}:{os.getpid()}"
        self._served, self._metrics, loaded = served, Metrics(name), served.load()
        drawing: dict[str, Any] = {"batch": served.batch, "wait": served.wait, "queue": served.queue}
        self._scheduler = Scheduler(lambda: loaded, self._metrics, **drawing, lanes=served.lanes)

    def __serve_build_asgi_app__(self) -> FastAPI:
        served = self._served
        more: dict[str, Any] = {"limits": served.limits, "keys": served.keys}
        more |= {"log_prompts": served.log_prompts, "started": served.started}
        return application(self._scheduler, self._metrics, **more)

    def check_health(self) -> None:
        """Raises once a thread that draws has failed, upon which Ray replaces this replica."""
        if self._scheduler.failure is not None:
            raise self._scheduler.failure


@contextmanager
def replicas(
    served: Served, *, host: str, port: int, least: int = 1, most: int = 1, address: str = ""
) -> Iterator[tuple[int, Callable[[], None]]]:
    """Start replicas, and stop them behind the block, each when it has finished what it has accepted.

    Args:
        served: what each of them serves.
        host, port: where the cluster's machines listen; port 0 takes a free one of this machine.
        least, most: replicas that there are always, and at most.
        address: of a running cluster; "" starts one on this machine.

    Returns:
        The port, and a function that raises unless the replicas are as they should be.

    Raises:
        MissingExtraError: Ray is not installed.
        OptionError: no such cluster, too few devices in it, or it serves this application already.
        OutputError: the port cannot be had.
        StagevarError: a replica cannot be started.
    """
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(PATIENCE))
    serve = _serve()
    with connected(address) as ray:
        port = port if address else free_port(host, port)
        needs, where = shares(ray, least, most)[1], "EveryNode" if address else "HeadOnly"
        with _said(), suppress(TimeoutError):  # a front that is slow to start comes up all the same
            serve.start(http_options={"host": host, "port": port}, proxy_location=where)
        if NAME in serve.status().applications:
            raise OptionError(f"the cluster at {address} serves {NAME} already; stop that first")
        try:
            with _said():
                serve.run(_deployment(serve, served, needs, least, most), name=NAME, route_prefix="/")
                _await_front(host, port)
            yield port, lambda: _require_healthy(serve)
        finally:
            serve.delete(NAME)  # waits for the replicas, while Ray's front still passes on their replies
            if not address:
                serve.shutdown()


def _serve() -> Any:
    """Ray's module for servers."""
    try:
        from ray import serve
    except ImportError:
        raise MissingExtraError("ray[serve]", "ray") from None
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return serve


@contextmanager
def _said() -> Iterator[None]:
    """Whatever keeps Ray from starting them as an error of ours."""
    try:
        yield
    except Exception as error:
        raise StagevarError(f"the replicas cannot be started: {first_line(error)}") from error


def _await_front(host: str, port: int) -> None:
    """Return once Ray's front answers.

    Raises:
        TimeoutError
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection((host, port), timeout=LOOK):
            return
        time.sleep(LOOK)
    raise TimeoutError(f"nothing answers at {host}, port {port}")


def _deployment(serve: Any, served: Served, needs: Mapping[str, int], least: int, most: int) -> Any:
    """The application for Ray. Ray sends a replica more than it takes, so that our own queue says when it is full."""
    number: dict[str, Any] = {"num_replicas": least}
    if most > least:
        wanted = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": served.batch}
        number = {"autoscaling_config": wanted}
    kind = serve.deployment(
        name=NAME,
        max_ongoing_requests=2 * (served.queue + served.batch),
        graceful_shutdown_timeout_s=served.limits.deadline + STOPPING,
        ray_actor_options=dict(needs),
        **number,
    )
    return kind(serve.ingress(None)(Replica)).bind(served)


def _require_healthy(serve: Any) -> None:
    """Raise if the replicas have ended or are not replaced."""
    found = serve.status().applications.get(NAME)
    if found is None or found.status in ("DEPLOY_FAILED", "UNHEALTHY", "NOT_STARTED"):
        raise StagevarError(f"the replicas have ended: {found.message if found else 'the cluster has none'}")


def serve_replicas(
    served: Served,
    *,
    host: str,
    port: int,
    least: int,
    most: int,
    address: str,
    listening: Callable[[int], None],
) -> None:
    """Serve with replicas until a signal.

    Args:
        served, host, port, least, most, address: as in ``replicas``.
        listening: told the port, once the replicas answer.
    """
    with (
        suppress(KeyboardInterrupt, Terminated),
        replicas(served, host=host, port=port, least=least, most=most, address=address) as (taken, require_healthy),
    ):
        listening(taken)
        while True:
            time.sleep(LOOK)
            require_healthy()
