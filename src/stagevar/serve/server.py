"""The process that serves: it listens, loads, and stops in good order."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from stagevar.errors import OutputError, Terminated
from stagevar.serve.scheduler import Scheduler

STOPPING = 30
"""Seconds beyond a request's own that connections have to end when the server stops."""


class Server(uvicorn.Server):
    """Refuses new requests from the first signal on, finishes those accepted, and stops by itself if drawing has."""

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler) -> None:
        super().__init__(config)
        self.scheduler = scheduler

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.scheduler.close()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.scheduler.failure is not None


def serve(
    app: FastAPI, scheduler: Scheduler, *, host: str, port: int, deadline: float, listening: Callable[[int], None]
) -> None:
    """Serve until a signal; the second one ends at once.

    Args:
        app: of the scheduler.
        scheduler: of the application.
        host, port: where to listen; port 0 takes a free one.
        deadline: seconds that a request may take, which a stopping server waits for.
        listening: told the port, as soon as connections are accepted.

    Raises:
        OutputError: the port cannot be had.
        whatever ended a thread that draws, such as weights that cannot be loaded.
    """
    listener = listen(host, port)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(deadline) + STOPPING,
    )
    listening(listener.getsockname()[1])
    with suppress(KeyboardInterrupt, Terminated):
        Server(config, scheduler).run([listener])
    if scheduler.failure is not None:
        raise scheduler.failure


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        OutputError: the port cannot be had.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot listen on {host}, port {port}: {why}; choose another --port or --host") from None


def free_port(host: str, port: int) -> int:
    """The port, or for 0 a free one, once it is clear that another process can listen there.

    Raises:
        OutputError: as in ``listen``.
    """
    with listen(host, port) as listener:
        return int(listener.getsockname()[1])


def write_log() -> None:
    """Write the log of requests, one JSON object a line, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("stagevar.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
