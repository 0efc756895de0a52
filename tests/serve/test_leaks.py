"""A server that has drawn holds no more tensors than before, whatever was asked for and however it ended."""

from __future__ import annotations

import functools
import gc
from concurrent.futures import ThreadPoolExecutor

import httpx2
import torch

from stagevar.pipeline import Pipeline

from .conftest import Served, serving

ACCELERATORS = ("none", "stagevar(quality=0.2)", "drop_last(1)", "no such")


def tensors() -> int:
    gc.collect()
    return sum(type(each) is torch.Tensor for each in gc.get_objects())


def ask(found: Served, number: int) -> int:
    body = {"prompt": "a star", "seed": number, "accelerator": ACCELERATORS[number % 4], "n": 1 + number % 2}
    with httpx2.Client(timeout=60) as client:
        if number % 7:
            return client.post(found.url + "/v1/images/generations", json=body).status_code
        streamed = body | {"stream": True, "partial_images": 2, "n": 1}
        with client.stream("POST", found.url + "/v1/images/generations", json=streamed) as answer:
            return answer.status_code  # leaves before the picture is there


def test_tensors_of_requests_are_gone_when_they_have_ended(pipelines: dict[str, Pipeline]) -> None:
    held = []
    for first in range(0, 72, 24):
        with serving(pipelines) as found, ThreadPoolExecutor(6) as pool:
            assert set(pool.map(functools.partial(ask, found), range(first, first + 24))) == {200, 400}
        held.append(tensors())
    assert held[2] <= held[1]
