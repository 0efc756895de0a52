"""`torchrun -m stagevar generate`: the processes share the pictures, and the outcome is that of one process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stagevar.engine.loop.trace import read
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.families.tiny import randomize
from stagevar.loading.save import save_model

from .parallel_parts import errors, torchrun


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ScenesConfig(width=32, depth=1, heads=2, text_depth=1, grids=(1, 2, 4, 8), codes=(8, 8, 8, 8))
    network = Scenes(config, name="small")
    randomize(network, 0)
    folder = tmp_path_factory.mktemp("small")
    save_model(network, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_files_and_traces_are_those_of_one_process(model: Path, tmp_path: Path) -> None:
    """Prompts whose file names collide, an accelerator that decides per picture, a last batch that is not full."""
    options = ("-m", model, "-n", 3, "--seed", 5, "-a", "stagevar", "--batch-size", 2, "-o", "out", "--json")
    prompts = ("generate", "a star", "a star!", "a red circle", "--trace", "trace.jsonl")
    seen = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        (folder / "out").mkdir(parents=True)
        for name in ("a-star-5.png", "a-star-6-2.png"):
            (folder / "out" / name).write_text("somebody's own")
        done = torchrun("-m", "stagevar", *prompts, *options, cwd=folder, processes=processes)
        assert done.returncode == 0, done.stderr
        traces = read(folder / "trace.jsonl")
        for trace in traces:
            trace.text_milliseconds = trace.decode_milliseconds = 0.0
        passes = [[(r.scale, r.images, r.run, r.branch, r.rows, r.cached) for r in trace.records] for trace in traces]
        seen.append((contents(folder / "out"), passes, [trace.pictures for trace in traces], json.loads(done.stdout)))
    (one, *rest_one, answer_one), (two, *rest_two, answer_two) = seen
    assert one == two and len(one) == 11 and rest_one == rest_two
    assert answer_one["pictures"] == answer_two["pictures"] and len(answer_two["traces"]) == 5


@pytest.mark.slow
def test_fresh_seeds_and_standard_input_are_read_once(model: Path, tmp_path: Path) -> None:
    command = ("-m", "stagevar", "generate", "--prompts", "-", "-m", model)
    done = torchrun(*command, cwd=tmp_path, stdin="a star\na red circle\nthree rings\n")
    assert done.returncode == 0, done.stderr
    assert len(contents(tmp_path / "out")) == 3
    assert done.stdout.count("pictures of small") == 1 and done.stdout.count(".png") == 3


@pytest.mark.slow
def test_a_failure_of_one_process_ends_the_run_and_loses_nothing(model: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("failing_rank.py")
    command = ("generate", "a star", "-n", 40, "--seed", 0, "--batch-size", 1, "-m", model, "--trace", "trace.jsonl")
    done = torchrun(script, *command, cwd=tmp_path)
    assert done.returncode == 1 and errors(done) == ["error: no space left for this test"]
    assert set(re.findall(r"exitcode +: (-?\d+)", done.stderr)) == {"6"}
    listed = re.findall(r"(?:/|\b)out/(a-star-\d+\.png)", done.stdout)
    assert sorted(listed) == sorted(contents(tmp_path / "out")) and "finished before this" in done.stdout
    assert {"a-star-1.png", "a-star-3.png"} <= set(listed) and "a-star-5.png" not in listed
    assert all(data.startswith(b"\x89PNG") for data in contents(tmp_path / "out").values())
    assert len(read(tmp_path / "trace.jsonl")) == len(listed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("generate", "a star", "--top-p", "3"), "top_p must lie between 0 and 1"),
        (("generate", "a star", "--no-such-option"), "No such option"),
        (("generate", "a star", "a purple dragon"), "does not know 'purple'"),
        (("generate", "a star", "--tensor-parallel", "3"), "there are 2; start it with torchrun --nproc-per-node 3"),
        (("demo",), "stagevar demo runs in one process"),
    ],
)
def test_what_every_process_refuses_is_said_once(command: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = torchrun("-m", "stagevar", *command, cwd=tmp_path)
    [line] = errors(done)
    assert message in line and not list(tmp_path.iterdir())
    assert set(re.findall(r"exitcode +: (-?\d+)", done.stderr)) <= {"2", "-15"}


@pytest.mark.slow
def test_one_network_over_two_processes_draws_the_same_pictures(model: Path, tmp_path: Path) -> None:
    from PIL import Image

    command = ("-m", "stagevar", "generate", "a star", "a red circle", "-m", model, "--seed", 3, "--json")
    for processes, more in ((1, ()), (2, ("--tensor-parallel", 2)), (4, ("--tensor-parallel", 2))):
        done = torchrun(*command, *more, "-o", f"out{processes}", cwd=tmp_path, processes=processes)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["pictures"]) == 2
    for name in contents(tmp_path / "out1"):
        pixels = [Image.open(tmp_path / folder / name).tobytes() for folder in ("out1", "out2", "out4")]
        assert pixels[0] == pixels[1] == pixels[2]
