"""Replicas on Ray Serve beside what goes over the wire: their health, and how they stop."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from stagevar.errors import StagevarError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.result import ScaleEvent
from stagevar.serve import replicas as module
from stagevar.serve.replicas import Replica, Served, replicas

from .conftest import load, ray_serve, serving


class Slow(Pipeline):
    """Takes five seconds for a batch."""

    def events(self, requests: Any, **settings: Any) -> Iterator[ScaleEvent]:
        *before, last = super().events(requests, **settings)
        yield from before
        time.sleep(5)
        yield last


def slow() -> dict[str, Pipeline]:
    return {"scenes": Slow(tiny("scenes"))}


def test_a_replica_is_healthy_until_its_drawing_thread_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "write_log", lambda: None)  # its handler would outlive this test's standard error
    replica = Replica(Served(load))
    replica.check_health()
    replica._scheduler.failure = StagevarError("the device is gone")
    with pytest.raises(StagevarError, match="the device is gone"):
        replica.check_health()


def test_replicas_can_say_one_time_since_when_they_serve(pipelines: dict[str, Pipeline]) -> None:
    with serving(pipelines, started=Served(load, started=7).started) as found:
        models = httpx2.get(found.url + "/v1/models", timeout=60).json()["data"]
    assert {model["created"] for model in models} == {7}


@pytest.mark.slow
def test_a_stop_lets_replicas_finish_what_they_have_accepted() -> None:
    ray_serve(__name__)
    answers: list[httpx2.Response] = []
    with replicas(Served(slow), host="127.0.0.1", port=0) as (port, require_healthy):
        url = f"http://127.0.0.1:{port}/v1/images/generations"

        def ask() -> None:
            answers.append(httpx2.post(url, json={"prompt": "a red circle"}, timeout=120))

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(2)
        require_healthy()
    thread.join()
    assert [answer.status_code for answer in answers] == [200]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)


@pytest.mark.slow
def test_more_replicas_start_while_those_there_are_busy() -> None:
    serve = ray_serve(__name__)
    codes: list[int] = []
    enough = threading.Event()
    with replicas(Served(slow, batch=1), host="127.0.0.1", port=0, least=1, most=2) as (port, require_healthy):
        url = f"http://127.0.0.1:{port}"

        def ask() -> None:
            while not enough.is_set():
                body = {"prompt": "a red circle"}
                codes.append(httpx2.post(f"{url}/v1/images/generations", json=body, timeout=120).status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        until, most = time.monotonic() + 150, 1
        while most < 2 and time.monotonic() < until:
            time.sleep(1)
            require_healthy()
            most = running(serve)
        names = set()
        while len(names) < 2 and time.monotonic() < until:
            names |= set(re.findall(r'replica="([^"]+)"', httpx2.get(f"{url}/metrics", timeout=60).text))
        enough.set()
        for thread in threads:
            thread.join()
    assert most == 2 and len(names) == 2
    assert set(codes) == {200}


def running(serve: Any) -> int:
    """How many replicas answer."""
    return sum(
        deployment.replica_states.get("RUNNING", 0)
        for application in serve.status().applications.values()
        for deployment in application.deployments.values()
    )
