"""The files that a benchmark reads and writes: figures hold for what was read, and what others wrote is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stagevar.errors import OptionError, OutputError
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.measure.bench.bench import bench
from stagevar.measure.bench.inputs import digests
from stagevar.measure.bench.journal import Journal
from stagevar.measure.bench.matrix import Matrix
from stagevar.measure.bench.report import write
from stagevar.pipeline import Pipeline

Run = Callable[..., tuple[int, str, str]]
SCENES = Pipeline(tiny("scenes"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    save_model(tiny("scenes"), folder)
    return folder


@pytest.mark.parametrize("text", ["mine", '{"format": "stagevar bench 1"}\n', '{"format": "stagevar bench 1"}\nmine'])
def test_a_line_that_is_not_of_a_benchmark_is_kept(text: str, tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text(text)
    with pytest.raises(OptionError, match=r"bench\.jsonl, line [12]: .*choose another folder"):
        Journal(tmp_path / "bench.jsonl")
    assert (tmp_path / "bench.jsonl").read_text() == text


def test_a_file_that_is_written_anew_is_measured_anew(model: Path, tmp_path: Path) -> None:
    own, fit, weights = tmp_path / "model", tmp_path / "profile.json", tmp_path / "lpips.pth"
    shutil.copytree(model, own)
    fit.write_text("1")
    weights.write_text("2")
    named = [f"half_cache+stagevar_released(profile={str(fit)!r})"]

    def seen() -> dict[str, str]:
        return digests(str(own), named, [str(weights)], ["a star"])

    first = seen()
    assert seen() == first and {str(fit), str(weights), str(own / "model.safetensors")} < set(first)
    for file in (fit, weights, own / "config.json", own / "stagevar.json"):
        before = seen()
        with file.open("a") as opened:
            opened.write(" ")
        assert {path for path, digest in seen().items() if before.get(path) != digest} == {str(file)}
    assert digests("scenes", [], [], ["a star"]) != digests("scenes", [], [], ["a ring"])


def test_other_prompts_in_the_same_file_are_measured_anew(tmp_path: Path) -> None:
    matrix, seen = Matrix(models=("tiny",), captions=1, shown=0, prompts="p.txt"), list[int]()
    for line in ("a star", "a star", "a ring"):
        bench(matrix, lambda name: SCENES, tmp_path, prompts=[line], told=lambda cell, of, done: seen.append(done))
    assert seen == [1, 1]


@pytest.mark.parametrize("name", ["bench.json", "bench.md", "report.html"])
def test_files_of_others_are_kept(command: Run, model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "events", lambda *_, **__: pytest.fail("drawn"))
    Path(name).write_text("mine")
    code, _, line = command("bench", "-m", model, "--captions", 1, "-o", ".")
    assert code == 6 and name in line and "choose another folder" in line and Path(name).read_text() == "mine"


def test_a_link_in_the_place_of_a_report_is_not_followed(tmp_path: Path) -> None:
    measured = bench(Matrix(models=("tiny",), captions=1, shown=0), lambda name: SCENES, tmp_path)
    write(tmp_path, *measured)
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "bench.md").unlink()
    (tmp_path / "bench.md").symlink_to("notes")
    with pytest.raises(OutputError, match=r"bench\.md"):
        write(tmp_path, *measured)
    assert (tmp_path / "notes").read_text() == "mine"
