"""Servers for tests: the real application behind a real socket, drawing with small random models."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import pytest
import uvicorn
from openai import OpenAI

from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.serve.app import application
from stagevar.serve.metrics import Metrics
from stagevar.serve.scheduler import Scheduler
from stagevar.serve.server import Server


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    scheduler: Scheduler
    metrics: Metrics
    server: Server
    clients: dict[str, OpenAI] = field(default_factory=dict)

    def client(self, key: str = "any") -> OpenAI:
        """The official client, one per key."""
        if key not in self.clients:
            self.clients[key] = OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)
        return self.clients[key]


@contextmanager
def serving(
    pipelines: Mapping[str, Pipeline],
    *,
    queue: int = 64,
    batch: int = 16,
    wait: float = 0.01,
    **settings: Any,
) -> Iterator[Served]:
    metrics = Metrics()
    scheduler = Scheduler(lambda: pipelines, metrics, queue=queue, batch=batch, wait=wait)
    app = application(scheduler, metrics, **settings)
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(uvicorn.Config(app, log_config=None, access_log=False), scheduler)
    thread = Thread(target=asyncio.run, args=(server.serve([listener]),))
    thread.start()
    found = Served(f"http://127.0.0.1:{listener.getsockname()[1]}", scheduler, metrics, server)
    try:
        yield found
    finally:
        for client in found.clients.values():
            client.close()
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def pipelines() -> dict[str, Pipeline]:
    """Two models, one of them of several sizes."""
    return {"scenes": Pipeline(tiny("scenes")), "infinity": Pipeline(tiny("infinity"))}


@pytest.fixture(scope="session")
def served(pipelines: dict[str, Pipeline]) -> Iterator[Served]:
    with serving(pipelines) as found:
        yield found
