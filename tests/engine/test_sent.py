"""Work on a stream of its own: a stand-in for CUDA tells in which order streams and host wait for one another."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stagevar.engine.grids.sent import fetched, sent


def test_on_the_cpu_the_result_is_there_at_once_and_nothing_is_copied() -> None:
    x = torch.arange(3.0)
    assert sent(x, torch.device("cpu")) is x
    assert fetched(lambda given: given * 2, x)().tolist() == [0, 2, 4]


def test_on_cuda_the_stream_waits_for_its_input_and_the_host_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Stream:
        def __init__(self, device: object) -> None:
            self.device = device

        def wait_stream(self, other: str) -> None:
            told.append(f"the stream waits for {other}")

        def record_event(self) -> Any:
            told.append("event")
            return SimpleNamespace(synchronize=lambda: told.append("the host waits"))

    @contextmanager
    def current(stream: Stream) -> Any:
        told.append("on the stream")
        yield
        told.append("off the stream")

    def work(given: Any) -> torch.Tensor:
        told.append("work")
        return torch.ones(2)

    def empty(like: torch.Tensor, **options: Any) -> torch.Tensor:
        assert options == {"device": "cpu", "pin_memory": True}
        return torch.zeros(2)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the loop's")
    monkeypatch.setattr(torch, "empty_like", empty)
    given: Any = SimpleNamespace(is_cuda=True, device="cuda:0", record_stream=lambda stream: told.append("kept"))
    wait = fetched(work, given)
    before = ["the stream waits for the loop's", "kept", "on the stream", "work", "event", "off the stream"]
    assert told == before
    assert wait().tolist() == [1, 1]
    assert told == [*before, "the host waits"]
