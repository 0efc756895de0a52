"""The simulation of queues, against theory and against servers that draw."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from random import Random
from statistics import fmean, median
from typing import Any

import httpx2
import pytest

from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.result import ScaleEvent
from stagevar.serve.forecast import Forecast

from .conftest import ray_serve, serving

ALONE, FURTHER, BATCH = 1.5, 0.4, 4
"""Seconds of the servers below: far longer than drawing takes, so that other work on the machine counts little."""


class Slow(Pipeline):
    """Draws a batch in a known time."""

    def events(self, requests: Any, **settings: Any) -> Iterator[ScaleEvent]:
        until = time.monotonic() + ALONE + FURTHER * (len(requests) - 1)
        *before, last = super().events(requests, **settings)
        yield from before
        time.sleep(max(0.0, until - time.monotonic()))
        yield last


def slow() -> dict[str, Pipeline]:
    return {"scenes": Slow(tiny("scenes"))}


def asked(url: str, rate: float, requests: int) -> list[float]:
    """The seconds of requests that come at random times, sorted."""
    random, seconds, threads = Random(1), list[float](), list[threading.Thread]()

    def ask() -> None:
        began = time.monotonic()
        answer = client.post("/v1/images/generations", json={"prompt": "a red circle"})
        assert answer.status_code == 200, answer.text
        seconds.append(time.monotonic() - began)

    with httpx2.Client(base_url=url, timeout=120) as client:
        for _ in range(requests):
            time.sleep(random.expovariate(rate))
            threads.append(threading.Thread(target=ask))
            threads[-1].start()
        for thread in threads:
            thread.join()
    assert len(seconds) == requests
    return sorted(seconds)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_by_one_it_is_the_queue_of_theory(load: float) -> None:
    """Random arrivals and equal times: the mean wait is load / (2 - 2 load) times that (Pollaczek and Khinchine)."""
    found = Forecast(1.0, 0.0, batch=1, wait=0.0, queue=10**9).run(load, 60_000)
    assert found.mean == pytest.approx(1 + load / (2 - 2 * load), rel=0.05)
    assert found.busy == pytest.approx(load, rel=0.02) and found.pictures == 1.0 and found.refused == 0.0


def test_a_full_queue_refuses_what_is_beyond_the_capacity() -> None:
    forecast = Forecast(1.0, 0.2, replicas=4, queue=32)
    found = forecast.run(2 * forecast.capacity, 20_000)
    assert forecast.capacity == 16.0 and found.refused == pytest.approx(0.5, abs=0.03)
    assert found.p99 <= 3 * forecast.seconds(16) + forecast.wait, "what is accepted waits for two batches at most"


def test_more_replicas_at_the_same_load_of_each_are_no_slower() -> None:
    forecasts = [Forecast(1.0, 0.2, replicas=count) for count in (1, 8)]
    one, eight = (each.run(0.5 * each.capacity, 8000) for each in forecasts)
    assert eight.p99 < one.p99 and eight.p50 < 1.1 * one.p50


@pytest.mark.slow
def test_a_server_takes_as_long_as_the_simulation_says() -> None:
    forecast = Forecast(ALONE, FURTHER, batch=BATCH)
    rate = 0.6 * forecast.capacity
    with serving(slow(), batch=BATCH) as found:
        compare(asked(found.url, rate, 60), forecast, rate)


@pytest.mark.slow
def test_two_replicas_take_as_long_as_the_simulation_says() -> None:
    ray_serve(__name__)
    from stagevar.serve.replicas import Served, replicas

    forecast = Forecast(ALONE, FURTHER, replicas=2, batch=BATCH)
    rate = 0.6 * forecast.capacity
    with replicas(Served(slow, batch=BATCH), host="127.0.0.1", port=0, least=2, most=2) as (port, _):
        asked(f"http://127.0.0.1:{port}", rate, 8)
        compare(asked(f"http://127.0.0.1:{port}", rate, 100), forecast, rate)


def compare(seconds: list[float], forecast: Forecast, rate: float) -> None:
    """Hold measured seconds against simulated ones; a few requests scatter, and a busy machine adds to them."""
    runs = [forecast.run(rate, len(seconds), seed) for seed in range(20)]
    p50, mean = median(seconds), fmean(seconds)
    assert 0.8 * min(each.p50 for each in runs) < p50 < 1.3 * max(each.p50 for each in runs)
    assert 0.8 * min(each.mean for each in runs) < mean < 1.3 * max(each.mean for each in runs)
