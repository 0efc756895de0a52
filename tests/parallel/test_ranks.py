"""Which process this one is, and which pictures it draws."""

from __future__ import annotations

import pytest
import torch

from stagevar.errors import OptionError
from stagevar.loading.place import read_device
from stagevar.parallel.ranks import NAMES, Ranks, portions


def set_ranks(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    for name, value in zip(NAMES, (*values, "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(name, value)


def test_a_process_that_torchrun_did_not_start_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_ranks(monkeypatch, "1", "4", "1")
    assert Ranks.here() == Ranks(1, 4, 1)
    monkeypatch.delenv("MASTER_ADDR")
    assert Ranks.here() == Ranks(0, 1, 0)


@pytest.mark.parametrize("values", [("one", "2", "1"), ("2", "2", "1"), ("-1", "2", "0")])
def test_an_environment_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, values: tuple[str, ...]) -> None:
    set_ranks(monkeypatch, *values)
    with pytest.raises(OptionError, match="torchrun sets"):
        Ranks.here()


def test_processes_make_up_groups() -> None:
    assert [Ranks(rank, 4).replicas(2) for rank in range(4)] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert Ranks(3, 4).replicas(1) == (3, 4)
    with pytest.raises(OptionError, match="there is 1; start it with torchrun --nproc-per-node 2"):
        Ranks().replicas(2)
    with pytest.raises(OptionError, match="multiple of 3 processes, and there are 4"):
        Ranks(0, 4).replicas(3)
    with pytest.raises(OptionError, match="1 or more"):
        Ranks().replicas(0)


@pytest.mark.parametrize(
    ("count", "most", "shares", "expected"),
    [
        (7, 16, 1, [7]),
        (7, 3, 1, [3, 3, 1]),
        (7, 16, 2, [4, 3]),
        (7, 2, 2, [2, 2, 2, 1]),
        (2, 16, 4, [1, 1]),
        (1, 1, 8, [1]),
    ],
)
def test_batches_are_full_and_enough_for_all(count: int, most: int, shares: int, expected: list[int]) -> None:
    batches = portions(count, most, shares)
    assert list(map(len, batches)) == expected
    assert [i for batch in batches for i in batch] == list(range(count))


def test_each_process_has_a_cuda_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: tried.append(str(device)) or torch.ones(()))
    set_ranks(monkeypatch, "5", "8", "1")
    assert read_device("auto") == read_device("cuda") == torch.device("cuda:1")
    assert read_device("cuda:3") == torch.device("cuda:3") and read_device("cpu").type == "cpu"
    monkeypatch.delenv("RANK")
    assert read_device("auto") == torch.device("cuda")
    assert tried == ["cuda:1", "cuda:1", "cuda:3", "cpu", "cuda"]
