"""``stagevar eval``: pictures, layout, scorer and report, and what is refused before anything is drawn."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stagevar.errors import OptionError
from stagevar.evaluation.protocol import Protocol
from stagevar.evaluation.report import Report
from stagevar.evaluation.reproduce import ACCELERATORS, MODELS, SUITES, planned
from stagevar.evaluation.suites.known import SUITES as KNOWN
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model

Run = Callable[..., tuple[int, str, str]]

RUN = "infinity-2b/none/geneval"
"""The first one of the run list."""

SCORER = """
import json, pathlib, sys
pictures, results = map(pathlib.Path, sys.argv[1:])
found = [{"tag": "colors", "correct": path.stem == "0000"} for path in sorted(pictures.glob("*/samples/*.png"))]
results.write_text("".join(json.dumps(each) + "\\n" for each in found))
"""
"""Stands in for GenEval's: the first picture of every prompt is right."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    save_model(tiny("scenes"), folder := tmp_path_factory.mktemp("models") / "small")
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    lines = [{"tag": "colors", "include": [], "prompt": text} for text in ("a red circle", "a blue star")]
    (path := tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def scorer(tmp_path: Path) -> str:
    (path := tmp_path / "evaluate_images.py").write_text(SCORER)
    return shlex.join([sys.executable, str(path), "{pictures}", "{results}"])


def test_a_run_is_drawn_scored_and_reported_with_its_protocol(
    command: Run, model: Path, prompts: Path, scorer: str, tmp_path: Path
) -> None:
    draw = "eval", "geneval", "--prompts", prompts, "-m", model, "-o", "plain"
    code, out, _ = command(*draw, "--guidance", "2", "--scorer", scorer)
    assert code == 0 and "protocol official with another guidance: 4 pictures per prompt" in out and "0.25" in out
    report = Report.read(tmp_path / "plain")
    assert report.laid.drawn == report.laid.files == 8 and report.protocol.guidance == 2.0
    assert report.protocol.temperature == 1.0, "the model's own settings stand in the report"
    page = (tmp_path / "plain" / "report.md").read_text()
    assert page.index("protocol official") < page.index("| geneval | overall | 0.2500 |")
    assert "not all: 0, 1, 2, 3, 4\n" in page and f"prompts {prompts}" in page
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "plain" / "drawn").glob("*.png")}
    code, out, _ = command(*draw, "--guidance", "2", "--json")
    assert code == 0 and json.loads(out)["measured"]["geneval"]["values"]["overall"] == 0.25
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "plain" / "drawn").glob("*.png")}
    code, _, error = command(*draw)
    assert code == 2 and "holds a job with protocol" in error
    code, _, error = command("eval", "dpg", "-o", "plain", "--results", prompts)
    assert code == 2 and "holds a run of GenEval, not of DPG-Bench" in error


def test_results_of_another_number_of_pictures_are_refused(
    command: Run, model: Path, prompts: Path, tmp_path: Path
) -> None:
    assert command("eval", "geneval", "--prompts", prompts, "-m", model, "--per-prompt", 1, "-q")[0] == 0
    (results := tmp_path / "r.jsonl").write_text('{"tag": "colors", "correct": true}\n')
    code, _, error = command("eval", "geneval", "--results", results)
    assert code == 2 and "results are of 1 pictures, and the run has 2 files" in error
    results.write_text('{"tag": "colors", "correct": true}\n' * 2)
    code, out, _ = command("eval", "geneval", "--results", results)
    assert code == 0 and "1 picture per prompt" in out


def test_an_accelerated_run_has_its_distance_to_the_plain_one(
    command: Run, model: Path, prompts: Path, tmp_path: Path
) -> None:
    run = "eval", "geneval", "--prompts", prompts, "-m", model, "--per-prompt", 1, "-q"
    for name, accelerator in (("plain", "none"), ("same", "none"), ("fast", "drop_last(1)")):
        assert command(*run, "-a", accelerator, "-o", name)[0] == 0
    assert command("eval", "geneval", "-o", "same", "--against", "plain")[0] == 0
    code, out, _ = command("eval", "geneval", "-o", "fast", "--against", "plain", "--json")
    same, fast = (Report.read(tmp_path / name).measured["self-distance"] for name in ("same", "fast"))
    assert code == 0 and same.values["ssim"] == 1.0 > fast.values["ssim"] and "plain (none)" in fast.by
    assert list(json.loads(out)["laid"]["scales"]) == ["0", "1", "2", "3"]
    assert command(*run, "-o", "other", "--seed", 1)[0] == 0
    code, _, error = command("eval", "geneval", "-o", "other", "--against", "plain")
    assert code == 2 and "drawn with another prompt or seed" in error


def test_a_prompt_that_cannot_be_drawn_is_missing_and_said(command: Run, model: Path, tmp_path: Path) -> None:
    (path := tmp_path / "p.jsonl").write_text('{"prompt": "a red circle"}\n{"prompt": "a purple unicorn"}\n')
    code, _, error = command("eval", "evalscope", "--prompts", path, "-m", model)
    assert code == 1 and "1 of 2 pictures are missing; eval/drawn/job/bad.jsonl says why" in error
    assert len((tmp_path / "eval" / "evalscope.jsonl").read_text().splitlines()) == 1


def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(
    command: Run, prompts: Path, tmp_path: Path
) -> None:
    for words, code, said in [
        (("unknown",), 2, "there is no benchmark"),
        (("geneval",), 2, "give --prompts"),
        (("geneval", "--prompts", "nowhere"), 4, "cannot read nowhere"),
        (("geneval", "--prompts", prompts, "--scorer", "run {picture}"), 2, "not picture"),
        (("geneval", "--prompts", prompts, "--scorer", "run '"), 2, "cannot be read"),
        (("geneval", "--prompts", prompts, "--results", "nowhere"), 4, "cannot read nowhere"),
        (("geneval", "--prompts", prompts, "--results", prompts), 2, "does not say whether"),
        (("geneval", "--prompts", prompts, "--scorer", "no-such-scorer {pictures}"), 4, "there is no such command"),
        (("geneval", "--prompts", prompts, "--against", "nowhere"), 4, "nowhere holds no run"),
        (
            ("geneval", "--prompts", prompts, "--real", "nowhere", "--features", prompts),
            4,
            "there is no folder nowhere",
        ),
        (("geneval", "--prompts", prompts, "--real", tmp_path, "--features", "x"), 4, "there is no file x"),
        (("geneval", "--prompts", prompts, "--results", prompts, "--scorer", "run"), 2, "give one"),
        (("geneval", "--prompts", prompts, "--real", tmp_path), 2, "--features"),
        (("geneval", "--prompts", prompts, "--protocol", "infinity"), 2, "not rewritten"),
        (("geneval", "--prompts", prompts, "--workers", 2), 2, "--ray"),
        (("geneval", "--prompts", prompts, "--guidance", 1000), 2, "guidance_scale"),
        (("geneval", "--results", prompts), 4, "no run of a benchmark"),
        (("--reproduce", "unknown"), 2, "there is stagevar"),
    ]:
        found, _, error = command("eval", *words, "-o", "run")
        assert (found, said in error) == (code, True), (words, error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "code"), [("layout.json", 2), ("report.json", 2), ("report.md", 6)])
def test_files_of_others_in_the_folder_of_a_run_are_found_before_anything_is_drawn(
    command: Run, model: Path, prompts: Path, tmp_path: Path, name: str, code: int
) -> None:
    (other := tmp_path / "run" / name).parent.mkdir()
    other.write_text('{"mine": 1}')
    found, _, error = command("eval", "geneval", "--prompts", prompts, "-m", model, "-o", "run")
    assert found == code and f"run/{name}" in error and "another folder" in error
    assert other.read_text() == '{"mine": 1}' and list(other.parent.iterdir()) == [other]


def test_a_picture_or_record_that_was_removed_is_drawn_again(
    command: Run, model: Path, prompts: Path, tmp_path: Path
) -> None:
    run = "eval", "geneval", "--prompts", prompts, "-m", model, "--per-prompt", 1
    assert command(*run, "-q")[0] == 0
    picture, record = (tmp_path / "eval" / "drawn" / f"00001_0.{suffix}" for suffix in ("png", "json"))
    other = picture.with_name("00000_0.png")
    before = picture.read_bytes(), other.read_bytes()
    other.unlink()
    record.unlink()
    code, _, error = command(*run)
    assert code == 2 and "00001_0.json is no record of 00001_0.png; remove both and run again" in error
    picture.unlink()
    assert command(*run, "-q")[0] == 0 and (picture.read_bytes(), other.read_bytes()) == before and record.exists()
    (tmp_path / "eval" / "report.md").write_text("# notes")
    code, _, error = command("eval", "geneval", "--results", prompts)
    assert code == 6 and "report.md was not written by stagevar" in error


def test_what_is_missing_is_said_with_what_to_do(command: Run, model: Path, tmp_path: Path) -> None:
    (path := tmp_path / "p.jsonl").write_text('{"prompt": "a purple unicorn"}\n')
    assert command("eval", "evalscope", "--prompts", path, "-m", model)[0] == 1
    (tmp_path / "eval" / "drawn" / "job" / "bad.jsonl").unlink()
    (results := tmp_path / "r.json").write_text('{"metrics": [{"name": "PickScore", "score": 21.5}]}')
    code, _, error = command("eval", "evalscope", "--results", results)
    assert code == 1 and "1 of 1 pictures are missing; give --prompts to draw them" in error


def test_a_scorer_that_fails_is_said_and_the_pictures_stay(
    command: Run, model: Path, prompts: Path, tmp_path: Path
) -> None:
    run = "eval", "geneval", "--prompts", prompts, "-m", model, "--per-prompt", 1, "-q"
    assert command(*run)[0] == 0
    python = shlex.quote(sys.executable)
    for scorer, code, said in [
        (f"{python} -c 'raise SystemExit(3)'", 1, "ended with code 3"),
        ("no-such-scorer {results}", 4, "cannot run the scorer"),
        (f"{python} -c 1 {{results}}", 4, "left no results"),
        (f"{python} -c 'print(1)'", 2, "is no JSON object"),
    ]:
        found, _, error = command("eval", "geneval", "--scorer", scorer)
        assert (found, said in error) == (code, True), error
    assert not Report.read(tmp_path / "eval").measured


def test_the_benchmarks_are_listed_with_their_protocols(command: Run) -> None:
    code, out, _ = command("eval")
    assert code == 0 and all(name in out for name in KNOWN)
    assert out.count("infinity: ") == sum(len(suite.protocols) > 1 for suite in KNOWN.values())


def test_a_report_has_no_score_without_a_protocol() -> None:
    with pytest.raises(TypeError, match="protocol"):
        Report(suite="geneval", title="GenEval", source="x")  # type: ignore[call-arg]
    assert Protocol("a", "b", 1).changed(per_prompt=1, guidance=None) == Protocol("a", "b", 1)


def test_the_run_list_holds_every_run_and_the_table_fills_as_they_are_scored(
    command: Run, model: Path, prompts: Path, scorer: str, tmp_path: Path
) -> None:
    assert command("eval", "--reproduce", "stagevar", "-o", "runs")[0] == 0
    lines = [line for line in (tmp_path / "runs" / "run.sh").read_text().splitlines() if line.startswith("stagevar")]
    assert len(lines) == len(MODELS) * len(ACCELERATORS) * len(SUITES) + 1
    assert lines[0] == (
        'stagevar eval geneval -m infinity-2b -a none --protocol infinity --prompts "$GENEVAL" '
        '--rewritten "$REWRITTEN" -o "$HERE"/infinity-2b/none/geneval ${OPTIONS:-} '
        '${GENEVAL_SCORER:+--scorer "$GENEVAL_SCORER"}'
    )
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| infinity-2b | `stagevar_released` | 0.72 | - | 82.86 | - | 0.64 |" in table
    (texts := tmp_path / "rewritten.json").write_text(json.dumps({"a red circle": "a cross", "a blue star": "a ring"}))
    first = next(planned())
    words = "--prompts", prompts, "--rewritten", texts, "--protocol", "infinity", "--scorer", scorer
    assert command("eval", first.suite, "-m", model, *words, "-o", f"runs/{first.folder}", "-q")[0] == 0
    assert command("eval", "--reproduce", "stagevar", "-o", "runs")[0] == 0
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| infinity-2b | `none` | 0.73 | 0.25 | 83.12 | - | 2.2 |" in table
    assert "* infinity-2b, none, geneval: protocol infinity: 4 pictures per prompt, prompts rewritten" in table


def test_the_run_list_takes_paths_of_the_folder_that_it_is_called_from(command: Run, tmp_path: Path) -> None:
    assert command("eval", "--reproduce", "stagevar", "-o", "my runs")[0] == 0
    (stand_in := tmp_path / "bin" / "stagevar").parent.mkdir()
    stand_in.write_text('#!/bin/sh\nprintf "%s|" "$PWD" "$@"\necho\n')
    stand_in.chmod(0o755)
    names = {
        "GENEVAL": "my metadata.jsonl",
        "REWRITTEN": "cache.json",
        "DPG": "dpg/prompts",
        "DPG_SCORER": "./score {x}",
    }
    own = {**os.environ, **names, "PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "my runs/run.sh"], capture_output=True, text=True, env=own, check=True)
    lines = [line.split("|")[:-1] for line in done.stdout.splitlines()]
    assert {line[0] for line in lines} == {str(tmp_path)}
    assert lines[0][-6:] == ["--prompts", "my metadata.jsonl", "--rewritten", "cache.json", "-o", f"my runs/{RUN}"]
    assert lines[1][-2:] == ["--scorer", "./score {x}"] and lines[-1][-2:] == ["-o", "my runs"]


@pytest.mark.parametrize("name", ["run.sh", "table.md"])
def test_a_run_list_replaces_no_file_of_others(command: Run, tmp_path: Path, name: str) -> None:
    (other := tmp_path / "runs" / name).parent.mkdir()
    other.write_text("# mine\n")
    code, _, error = command("eval", "--reproduce", "stagevar", "-o", "runs")
    assert code == 2 and f"{name} is there already and is not of a run list" in error
    assert list(other.parent.iterdir()) == [other] and other.read_text() == "# mine\n"


def test_every_run_of_the_list_is_of_a_known_model_protocol_and_accelerator() -> None:
    from stagevar.families.catalogue import names
    from stagevar.registry import parse

    for run in planned():
        assert run.model in names() and KNOWN[run.suite].protocol(MODELS[run.model]) and parse(run.accelerator)
    with pytest.raises(OptionError):
        KNOWN["dpg"].protocol("unknown")
