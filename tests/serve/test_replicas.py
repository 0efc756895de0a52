"""Replicas on Ray Serve beside what goes over the wire: their health, and how they stop."""

from __future__ import annotations

import sys
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
from stagevar.serve.replicas import Replica, Served, replicas

from .conftest import load


class Slow(Pipeline):
    """Takes five seconds for a batch."""

    def events(self, requests: Any, **settings: Any) -> Iterator[ScaleEvent]:
        *before, last = super().events(requests, **settings)
        yield from before
        time.sleep(5)
        yield last


def slow() -> dict[str, Pipeline]:
    return {"scenes": Slow(tiny("scenes"))}


def test_a_replica_is_healthy_until_its_drawing_thread_has_ended() -> None:
    replica = Replica(Served(load))
    replica.check_health()
    replica._scheduler.failure = StagevarError("the device is gone")
    with pytest.raises(StagevarError, match="the device is gone"):
        replica.check_health()


@pytest.mark.slow
def test_a_stop_lets_replicas_finish_what_they_have_accepted() -> None:
    pytest.importorskip("ray.serve", exc_type=ImportError)
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # replicas cannot import the tests
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
