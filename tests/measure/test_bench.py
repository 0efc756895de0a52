"""Benchmarks: a matrix checked before it runs, batches that outlive a killed run, warnings, and the report's files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagevar.errors import MissingFileError, OptionError
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.measure.bench import bench as benching
from stagevar.measure.bench.against import against
from stagevar.measure.bench.bench import bench, read_report
from stagevar.measure.bench.front import plot
from stagevar.measure.bench.journal import Journal
from stagevar.measure.bench.labels import overlap, placed
from stagevar.measure.bench.matrix import Cell, Matrix
from stagevar.measure.bench.page import page
from stagevar.measure.bench.report import markdown, write
from stagevar.measure.bench.warn import warnings
from stagevar.pipeline import Pipeline

Run = Callable[..., tuple[int, str, str]]
SCENES = Pipeline(tiny("scenes"))
MATRIX = Matrix(
    models=("tiny",), accelerators=("drop_last(1)", "stagevar"), batches=(1, 2), captions=3, seeds=2, shown=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def measured(folder: Path) -> tuple[dict[str, Any], Any]:
    return bench(MATRIX, lambda name: SCENES, folder)


# --- the matrix --------------------------------------------------------------


def test_every_model_size_and_batch_is_a_cell() -> None:
    matrix = Matrix(models=("a", "b"), sizes=("64x64",), batches=(1, 4))
    assert list(matrix.cells()) == [Cell(model, "64x64", batch) for model in "ab" for batch in (1, 4)]
    assert [str(cell) for cell in Matrix().cells()] == ["scenes, batch 1"]


def test_a_yaml_file_has_the_settings(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("models: [scenes]\naccelerators:\n- drop_last(2)\nbatches: [1, 8]\nguidance: 2\n")
    assert Matrix.read(tmp_path / "b.yaml") == Matrix(accelerators=("drop_last(2)",), batches=(1, 8), guidance=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acelerators: [none]", "did you mean accelerators"),
        ("captions: many", "captions must be a whole number"),
        ("captions: 0", "captions must be 1 or more"),
        ("captions: true", "captions must be a whole number"),
        ("models: scenes", "models must be a list of texts"),
        ("batches: [1, x]", "batches must be a list of whole numbers"),
        ("batches: []", "batches is empty"),
        ("batches: [0]", "batches must be 1 or more"),
        ("guidance: strong", "guidance must be a number"),
        ("- none", "must hold keys and values"),
        ("a: [", "is no YAML"),
        ("captions: 2001-99-99", "is no YAML: month must be"),
        (f"captions: {'9' * 5000}", "is no YAML: Exceeds the limit"),
        ("captions: !!int ''", "is no YAML"),
    ],
)
def test_a_bad_setting_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(OptionError, match=said):
        Matrix.read(tmp_path / "b.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"b\.yaml"):
        Matrix.read(tmp_path / "b.yaml")


# --- measuring ---------------------------------------------------------------


def test_every_cell_has_every_figure(measured: tuple[dict[str, Any], Any]) -> None:
    report, _ = measured
    assert [cell["batch"] for cell in report["cells"]] == [1, 2]
    for cell in report["cells"]:
        assert [row["accelerator"] for row in cell["rows"]] == ["none", "drop_last(1)", "stagevar"]
        plain, dropped, _ = cell["rows"]
        assert plain["self_frechet"] == pytest.approx(0, abs=1e-3) and dropped["self_frechet"] > 0
        assert plain["diversity"] > 0 and plain["cache_bytes"] > dropped["cache_bytes"] > 0
        assert dropped["rows_by_scale"] == [2, 8, 18, 50, 0] and len(dropped["milliseconds_by_scale"]) == 5
        assert dropped["flop_ratio"] == pytest.approx(plain["flops"] / dropped["flops"]) and cell["seeds"] == 2
    assert json.loads(json.dumps(report)) == report


def test_a_batch_twice_as_large_has_a_cache_twice_as_large(measured: tuple[dict[str, Any], Any]) -> None:
    one, two = (cell["rows"][0]["cache_bytes"] for cell in measured[0]["cells"])
    assert two == 2 * one


def test_a_run_that_was_killed_loses_the_batch_at_hand_alone(folder: Path, measured: Any, tmp_path: Path) -> None:
    lines = (folder / "bench.jsonl").read_text().splitlines(keepends=True)
    kept = tmp_path / "bench.jsonl"
    kept.write_text("".join(lines[:-2]) + lines[-2][:40])
    drawn: list[tuple[str, int]] = []
    report, _ = bench(
        MATRIX, lambda name: SCENES, tmp_path, told=lambda cell, of, done: drawn.append((str(cell), done))
    )
    assert drawn == [("tiny, batch 2", 6)], "the batch that lacked an accelerator is drawn by all of them"
    assert kept.read_text().startswith("".join(lines[:-2]))
    quality = [[row["ssim"] for row in cell["rows"]] for cell in report["cells"]]
    assert quality == [[row["ssim"] for row in cell["rows"]] for cell in measured[0]["cells"]]


def test_other_settings_are_measured_anew(folder: Path, measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = {"model": "tiny"}
    assert Journal(folder / "bench.jsonl").known(conditions) == {}
    monkeypatch.setattr(benching, "stamp", lambda: {"date": "now", "commit": "another"})
    seen: list[int] = []
    matrix = Matrix(models=("tiny",), captions=1, shown=0)
    for _ in range(2):
        bench(matrix, lambda name: SCENES, folder, told=lambda cell, of, done: seen.append(done))
    assert seen == [1]


def test_a_journal_of_something_else_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text('{"format": "other"}\n')
    with pytest.raises(OptionError, match=r"bench\.jsonl, line 1"):
        bench(Matrix(shown=0), lambda name: SCENES, tmp_path)
    assert (tmp_path / "bench.jsonl").read_text() == '{"format": "other"}\n'


def test_no_more_captions_are_shown_than_are_measured(tmp_path: Path) -> None:
    _, [shown] = bench(Matrix(models=("tiny",), captions=2, shown=5), lambda name: SCENES, tmp_path)
    assert len(shown) == 2


# --- warnings ----------------------------------------------------------------


def row(name: str, **figures: Any) -> dict[str, Any]:
    usual = {"flop_ratio": 1.0, "speedup": 1.0, "ssim": 1.0, "ssim_error": 0.001, "oracle_difference": None}
    usual |= {"oracle_difference_error": None, "network_quartiles": [1.0, 1.0], "network_batch": {"median": 1.0}}
    return {"accelerator": name, **usual, **figures}


def warned(*rows: Mapping[str, Any], load: float | None = 0.1, **plain: Any) -> list[str]:
    return warnings({"size": [12, 16], "batch": 4, "load": load, "rows": [row("none", **plain), *rows]})


def test_a_quiet_machine_and_a_method_that_pays_are_no_warning() -> None:
    assert warned(row("a", flop_ratio=2, speedup=1.8, ssim=0.9)) == []


def test_what_a_reader_should_know_is_said() -> None:
    assert "busy" in warned(load=3.0)[0] and warned(load=None) == []
    assert "spread by 50%" in warned(network_quartiles=[0.75, 1.25])[0]
    assert "a cannot pay at 16x12 and batch 4" in warned(row("a", flop_ratio=0.9, ssim=0.9))[0]
    assert "a does not pay at 16x12 and batch 4" in warned(row("a", flop_ratio=2, speedup=1.0, ssim=0.9))[0]
    near = row("a", flop_ratio=2, speedup=2, ssim=0.9), row("b", flop_ratio=2, speedup=2, ssim=0.9005)
    assert warned(*near) == ["within standard errors b and a have one SSIM"]
    even = row("a", flop_ratio=2, speedup=2, oracle_difference=-0.01, oracle_difference_error=0.02)
    assert "reader's score is the plain run's: a" in warned(even)[0]


# --- the report --------------------------------------------------------------

POINTS = st.lists(st.tuples(st.floats(0, 400), st.floats(0, 250)), min_size=1, max_size=14)


@given(POINTS)
@settings(max_examples=25, deadline=None)
def test_no_name_overlaps_another_one_or_a_point(points: list[tuple[float, float]]) -> None:
    boxes = placed(points, [(60.0, 9.0)] * len(points), (0, 0, 400, 250))
    assert not any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not any(overlap(box, (x - 1, y - 1, x + 1, y + 1)) for box in boxes for x, y in points)


def test_the_names_of_a_plot_do_not_overlap() -> None:
    rows = [
        row(f"accelerator_of_a_long_name(n={i})", network_seconds=1 + i % 3 / 50, ssim=0.9 + i / 1e3) for i in range(12)
    ]
    shared = {
        "captions": 1,
        "seeds": 1,
        "size": [64, 64],
        "model": "m",
        "device": "cpu",
        "dtype": "float32",
        "batch": 1,
    }
    figure = plot({**shared, "rows": rows}, "ssim")
    boxes = [text.get_window_extent().extents for text in figure.axes[0].texts]
    assert len(boxes) == 12 and not any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_page_needs_nothing_else(measured: tuple[dict[str, Any], Any]) -> None:
    report, pictures = measured
    text = page(report, pictures, "| <b> |")
    links = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert text.count("<svg") == 4 and text.count("<img") == 2 * 3 * 3 and "&lt;b&gt;" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_files_hold_the_report(measured: tuple[dict[str, Any], Any], tmp_path: Path) -> None:
    report, pictures = measured
    files = write(tmp_path, report, pictures)
    assert [file.name for file in files] == ["bench.json", "bench.md", "report.html"]
    assert read_report(tmp_path, MATRIX) == report and "## " in files[1].read_text()
    assert markdown(report).count("self-Frechet") >= 2


def test_two_reports_are_compared_where_they_asked_the_same(measured: tuple[dict[str, Any], Any]) -> None:
    report, _ = measured
    said = against(report, report)
    assert said.count("1.00x") == 6 and "cannot be compared" not in said
    now, before = (json.loads(json.dumps(report)) for _ in range(2))
    for cell in (*now["cells"], *before["cells"]):
        cell["rows"][1]["ssim_error"] = 0.01
    for cell in before["cells"]:
        cell["threads"] += 1
        cell["rows"][1]["ssim"] += 0.05
    said = against(now, before)
    assert "Times cannot be compared: threads" in said and said.count("* |") == 2
    for cell in before["cells"]:
        cell["asked"]["captions"] = 99
    with pytest.raises(OptionError, match="no cell in common"):
        against(report, before)


@pytest.mark.parametrize(
    ("text", "said"), [("{}", "no report of this version"), ("[1", "not JSON"), (None, "cannot read")]
)
def test_a_report_of_another_schema_is_named(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "bench.json").write_text(text)
    with pytest.raises(OptionError, match=said):
        read_report(tmp_path, MATRIX)


# --- the command -------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    save_model(tiny("scenes"), folder)
    return folder


def test_bench_takes_a_file_and_options_over_it(command: Run, model: Path) -> None:
    Path("b.yaml").write_text(f"models: [{model}]\ncaptions: 3\nshown: 1\n")
    options = ("--config", "b.yaml", "--captions", 1, "-a", "drop_last(1)")
    code, out, _ = command("bench", *options, "-o", "b", "--json")
    [cell] = json.loads(out)["cells"]
    assert (
        code == 0 and cell["captions"] == 1 and [row["accelerator"] for row in cell["rows"]] == ["none", "drop_last(1)"]
    )
    code, out, _ = command("bench", *options, "-o", "b", "--against", "b")
    assert code == 0 and "report.html" in out and "Against" in Path("b/bench.md").read_text()


def test_nothing_is_drawn_if_one_combination_cannot_run(command: Run, model: Path) -> None:
    code, _, line = command("bench", "-m", model, "-a", "drop_last(1)", "-a", "drop_last(9)", "-o", "b")
    assert code == 2 and "drop_last" in line and str(model) in line and not Path("b").exists()
    assert command("bench", "-m", model, "--against", "nowhere", "-o", "b")[0] == 2
    assert not Path("b").exists()


def test_an_earlier_report_is_checked_before_anything_is_drawn(
    command: Run, model: Path, measured: tuple[dict[str, Any], Any]
) -> None:
    write(Path(), *measured)
    code, _, line = command("bench", "-m", model, "--against", ".", "-o", "b")
    assert code == 2 and "no cell in common with this run" in line and not Path("b").exists()
