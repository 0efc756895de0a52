"""Latency by part and traces as files."""

from pathlib import Path

import pytest
import torch

from stagevar.engine.loop.trace import read, write
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.errors import MissingFileError, OptionError, OutputError
from stagevar.families.tiny import tiny
from stagevar.measure.bench.latency import PARTS, Stopwatch, latency, watching
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PIPES = {"infinity": Pipeline(tiny("infinity")), "scenes": Pipeline(tiny("scenes"))}


def requests(pipe, **fields):
    return [Request("a red star", seed=1, **fields), Request("two rings", seed=2, **fields)]


@pytest.mark.parametrize("family", list(PIPES))
def test_every_part_takes_time_and_other_is_little(family):
    parts = latency(PIPES[family], requests(PIPES[family]))
    assert tuple(parts) == PARTS
    assert parts["select"] == 0
    assert all(parts[name] > 0 for name in PARTS if name not in ("select", "other"))
    assert -0.01 < parts["other"] < 0.5 * sum(parts.values())


def test_the_second_of_two_equal_calls_is_reported(monkeypatch):
    calls, pipe = [], PIPES["scenes"]
    events = pipe.events
    monkeypatch.setattr(
        pipe, "events", lambda *args, **options: calls.append(options["tap"]) or events(*args, **options)
    )
    parts = latency(pipe, requests(pipe))
    assert len(calls) == 2 and parts["attention"] == calls[1].seconds["attention"] * 1e3


def test_what_a_block_does_behind_a_part_is_time_of_that_part(monkeypatch):
    monkeypatch.setattr("time.perf_counter", iter([1.0, 3.0, 7.0]).__next__)
    watch, nothing = Stopwatch(torch.device("cpu")), torch.empty(0)
    watch("begin", 0, nothing)
    watch.book("attention")
    watch("block.0", 0, nothing)
    monkeypatch.undo()
    assert watch.seconds == {"attention": 6.0}


def test_reducing_and_restoring_are_told_apart():
    pipe = PIPES["scenes"]
    plan = Plan.uniform(5).replace([3, 4], tokens=Select(0.5, restore_by="lowrank"))
    parts = latency(pipe, requests(pipe, plan=plan))
    assert parts["select"] > 0 and parts["restore"] > 0


def test_watching_changes_no_picture_and_leaves_nothing_behind():
    pipe = PIPES["infinity"]
    plain = pipe("a star", seed=3, output_type="latent").images[0]
    with watching(pipe.model) as watch:
        for event in pipe.events([Request("a star", seed=3)], output_type="latent", tap=watch):
            result = event.result
    assert torch.equal(result.images[0], plain)
    assert not any(module._forward_hooks for module in pipe.model.modules())
    before = dict(watch.seconds)
    pipe("a star", seed=3)
    assert watch.seconds == before


def test_traces_are_read_as_they_were_written(tmp_path: Path):
    traces = [PIPES["scenes"](["a star", "a ring"], seed=i, accelerator="drop_last(1)").trace for i in range(2)]
    write(tmp_path / "t.jsonl", traces)
    assert read(tmp_path / "t.jsonl") == traces
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 2 * (1 + 5)
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "pass"}', '{"kind": "call", "seeds": [1]}', "{}", "3"])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, text: str):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(OptionError, match="line 1"):
        read(tmp_path / "t.jsonl")


def test_files_that_are_out_of_reach(tmp_path: Path):
    with pytest.raises(MissingFileError):
        read(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write(tmp_path / "file" / "t.jsonl", [])
