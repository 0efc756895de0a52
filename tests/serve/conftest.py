"""Servers for tests: the real application behind a real socket, drawing with small random models."""

from __future__ import annotations

import asyncio
import socket
import sys
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
class Address:
    """Where a server answers."""

    url: str
    clients: dict[str, OpenAI] = field(default_factory=dict, kw_only=True)

    def client(self, key: str = "any") -> OpenAI:
        """The official client, one per key."""
        if key not in self.clients:
            self.clients[key] = OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)
        return self.clients[key]

    def close(self) -> None:
        for client in self.clients.values():
            client.close()


@dataclass(frozen=True)
class Served(Address):
    """A server in this process."""

    scheduler: Scheduler
    metrics: Metrics
    server: Server


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
    server = Server(uvicorn.Config(app, loop="asyncio", http="h11", log_config=None, access_log=False), scheduler)
    thread = Thread(target=asyncio.run, args=(server.serve([listener]),))
    thread.start()
    found = Served(f"http://127.0.0.1:{listener.getsockname()[1]}", scheduler, metrics, server)
    try:
        yield found
    finally:
        found.close()
        server.should_exit = True
        thread.join()
        listener.close()


def load() -> dict[str, Pipeline]:
    """Two models, one of them of several sizes."""
    return {"scenes": Pipeline(tiny("scenes")), "infinity": Pipeline(tiny("infinity"))}


@pytest.fixture(scope="session")
def pipelines() -> dict[str, Pipeline]:
    return load()


def ray_serve(module: str) -> Any:
    """Ray Serve, or the test is skipped. Replicas get what a module of tests defines, which they cannot import."""
    serve = pytest.importorskip("ray.serve", exc_type=ImportError)
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[module])
    return serve


@pytest.fixture(scope="module")
def replicated() -> Iterator[Address]:
    """Two replicas on a Ray cluster of this machine, of which a process has one at a time."""
    ray_serve(__name__)
    from stagevar.serve.replicas import Served, replicas

    with replicas(Served(load), host="127.0.0.1", port=0, least=2, most=2) as (port, _):
        found = Address(f"http://127.0.0.1:{port}")
        yield found
        found.close()


@pytest.fixture(scope="module", params=["process", pytest.param("ray", marks=pytest.mark.slow)])
def served(request: pytest.FixtureRequest) -> Iterator[Address]:
    """A server in this process, or two replicas on Ray: the same over the wire."""
    if request.param == "ray":
        yield request.getfixturevalue("replicated")
        return
    with serving(request.getfixturevalue("pipelines")) as found:
        yield found
