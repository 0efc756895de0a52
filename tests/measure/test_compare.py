"""Accelerators side by side: the figures, the files, the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image

from stagevar import registry
from stagevar.accelerators.base import Accelerator
from stagevar.accelerators.baselines import DropLast
from stagevar.errors import MissingExtraError, MissingFileError, OptionError
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.families.tiny import randomize, tiny
from stagevar.loading.save import save_model
from stagevar.measure.bench import compare as comparing
from stagevar.measure.bench import front
from stagevar.measure.bench import table as report
from stagevar.measure.bench.compare import compare
from stagevar.measure.bench.draw import Drawn
from stagevar.measure.suites.score import score
from stagevar.pipeline import Pipeline
from stagevar.registry import known, parse
from stagevar.request import Request

SCENES = Pipeline(tiny("scenes"))
KEYS = {
    *("accelerator", "network_seconds", "total_seconds", "speedup", "oracle", "relaxed", "ssim", "psnr"),
    *("executed_scales", "rows_processed", "flops"),
}


@pytest.fixture(scope="module")
def comparison() -> dict:
    return compare(SCENES, ["drop_last(1)", "guidance_off(2)", "none"], captions=7, batch_size=3, guidance=2.0, seed=5)


def test_the_plain_run_comes_first_and_every_figure_is_there(comparison):
    assert [row["accelerator"] for row in comparison["rows"]] == ["none", "drop_last(1)", "guidance_off(2)"]
    assert {"device", "dtype", "model", "captions", "threads", "batch", "size", "warm_up", "torch"} <= set(comparison)
    assert (comparison["captions"], comparison["batch"], comparison["size"]) == (7, 3, [12, 12])
    for row in comparison["rows"]:
        assert set(row) >= KEYS
        assert row["network_seconds"] <= row["total_seconds"]
    assert json.loads(json.dumps(comparison)) == comparison


def test_rows_are_relative_to_the_plain_run(comparison):
    plain, dropped, single = comparison["rows"]
    assert plain["speedup"] == 1 and plain["ssim"] == pytest.approx(1) and plain["psnr"] == 100
    assert plain["bands"][1:] == pytest.approx([1] * 3) and plain["oracle_difference"] == 0
    assert plain["executed_scales"] == [0, 1, 2, 3, 4] and dropped["executed_scales"] == [0, 1, 2, 3]
    assert plain["rows_processed"] == 2 * (1 + 4 + 9 + 25 + 36) and dropped["rows_processed"] == 2 * (1 + 4 + 9 + 25)
    assert dropped["flops"] < single["flops"] < plain["flops"]
    assert dropped["ssim"] < 1 and dropped["psnr"] < 100


def test_the_oracle_reads_what_score_reads(comparison):
    scores = score(SCENES, captions=7, guidance=2.0, seed=5, accelerator="drop_last(1)")
    row = comparison["rows"][1]
    assert row["oracle"] == pytest.approx(scores["overall"]) and row["relaxed"] == pytest.approx(scores["relaxed"])


def test_the_difference_to_the_plain_run_has_an_error_where_categories_have_two_captions(comparison):
    assert comparison["rows"][1]["oracle_difference_error"] is None
    assert compare(SCENES, [], captions=12)["rows"][0]["oracle_difference_error"] == 0


def test_accelerators_take_turns_with_the_same_requests(monkeypatch):
    seen: list[tuple[str, list[int]]] = []
    draw = comparing.draw

    def spy(pipeline, batch, accelerator) -> Drawn:
        seen.append((accelerator, [request.seed for request in batch]))
        return draw(pipeline, batch, accelerator)

    monkeypatch.setattr(comparing, "draw", spy)
    done: list[int] = []
    compare(SCENES, ["drop_last(1)"], captions=5, batch_size=2, seed=3, progress=done.append)
    a, b = parse("none"), parse("drop_last(1)")
    assert seen[:2] == [(a, [3, 4]), (b, [3, 4])]
    assert seen[2:] == [(a, [3, 4]), (b, [3, 4]), (b, [5, 6]), (a, [5, 6]), (a, [7]), (b, [7])]
    assert done == [2, 4, 5]


@dataclass(frozen=True)
class Unlisted(DropLast):
    """No name of the registry means it."""

    name: ClassVar[str] = "unlisted"


def test_an_accelerator_that_no_name_means_is_compared_too():
    rows = compare(SCENES, [Unlisted(2)], captions=1, parts=True)["rows"]
    assert [row["accelerator"] for row in rows] == ["none", "unlisted(n=2)"]
    assert len(rows[1]["executed_scales"]) == len(rows[0]["executed_scales"]) - 2


def test_speed_is_the_median_of_ratios_of_the_same_batch(monkeypatch):
    clock = iter([9, 9, 10, 1, 2, 40, 30, 10])  # warm-up; plain, dropped; dropped, plain; plain, dropped

    def timed(pipeline, batch, accelerator) -> Drawn:
        result = pipeline([r.prompt for r in batch], seed=[r.seed for r in batch], output_type="pt")
        seconds = next(clock)
        scale = seconds * 1e3 / result.trace.network_milliseconds
        for i, record in enumerate(result.trace.records):
            result.trace.records[i] = type(record)(
                **{name: getattr(record, name) for name in record.__slots__ if name != "milliseconds"},
                milliseconds=record.milliseconds * scale,
            )
        plans = (pipeline.prepare(Request("any")).plan,) * len(batch)
        return Drawn(torch.stack(result.images), result.trace, 2 * seconds, plans)

    monkeypatch.setattr(comparing, "draw", timed)
    row = compare(SCENES, ["drop_last(1)"], captions=3, batch_size=1)["rows"][1]
    assert row["speedup"] == pytest.approx(10) and row["total_speedup"] == pytest.approx(10)
    assert row["speedup_quartiles"] == pytest.approx([6.5, 15])
    assert row["network_seconds"] == pytest.approx(13) and row["total_seconds"] == pytest.approx(26)
    assert row["network_batch"] == pytest.approx({"median": 2, "min": 1, "max": 10})


def test_a_family_without_an_oracle_has_prompts_of_its_own():
    pipeline = Pipeline(tiny("infinity"))
    comparison = compare(pipeline, ["drop_last(1)"], captions=2, prompts=["a fox", "two owls", "three"], parts=True)
    for row in comparison["rows"]:
        assert row["oracle"] is row["relaxed"] is row["oracle_difference"] is None
        assert set(row["parts"]) >= {"text", "attention", "decode"}
    assert front.measured(comparison) == ["ssim"]
    assert "Milliseconds by part" in report.markdown(comparison)
    assert compare(pipeline, [], captions=1)["rows"][0]["ssim"] == pytest.approx(1)


@dataclass(frozen=True)
class Early(Accelerator):
    """Leaves the last scale out where the third has shown an even figure, which is as good as any."""

    name: ClassVar[str] = "early"
    online: ClassVar[bool] = True

    def revise(self, plan, at, signals):
        return plan.replace([4], run="skip") if at.k == 2 and int(signals.confidence * 1e4) % 2 else plan


def test_pictures_that_follow_plans_of_their_own_are_averaged(monkeypatch):
    monkeypatch.setattr(registry, "known", lambda: {**known(), "early": Early})
    plain, dropped, early = compare(SCENES, ["drop_last(1)", "early"], captions=7)["rows"]
    share = early["executed_share"]
    assert 0.5 <= share < 1
    short = share if early["executed_scales"] == [0, 1, 2, 3] else 1 - share
    for figure in ("rows_processed", "flops"):
        assert early[figure] == pytest.approx(short * dropped[figure] + (1 - short) * plain[figure])


@pytest.mark.parametrize("options", [{"captions": 0}, {"captions": 10**6}, {"batch_size": 0}])
def test_numbers_out_of_range_are_named(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        compare(SCENES, [], **options)
    with pytest.raises(OptionError, match="warp"):
        compare(SCENES, ["warp"])


# --- files -------------------------------------------------------------------


def test_files_hold_the_table_the_figures_and_the_plots(comparison, tmp_path: Path):
    files = report.write(tmp_path, comparison)
    assert [file.name for file in files] == ["compare.json", "compare.md", "compare-ssim.png", "compare-oracle.png"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert json.loads(files[0].read_text()) == comparison
    text = files[1].read_text()
    for part in ("on cpu", "float32", "batch 3", "12x12 pixels", "0-3 of 5", "`guidance_off(2)`", "untimed"):
        assert part in text
    for file in files[2:]:
        with Image.open(file) as picture:
            assert min(picture.size) > 400


def test_the_front_holds_what_nothing_beats():
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (4.0, 0.9)]
    assert front.front(points) == [(1.0, 0.5), (2.0, 0.7), (3.0, 0.9)]


def test_numbers_are_told_in_ranges():
    assert report.ranges([0, 1, 2, 4, 6, 7]) == "0-2, 4, 6-7"


def test_a_majority_is_called_one(comparison):
    row = comparison["rows"][1] | {"executed_share": 0.75}
    assert "0-3 of 5 (75% of pictures)" in report.cells(row, 5)


def test_without_matplotlib_nothing_is_written(comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"stagevar\[plot\]"):
        report.write(tmp_path, comparison)
    assert not list(tmp_path.iterdir())


# --- commands ----------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = Scenes(ScenesConfig(width=32, depth=1, heads=2, text_depth=1, grids=(1, 2, 4), codes=(8, 8, 8)), "small")
    randomize(network, 0)
    folder = tmp_path_factory.mktemp("small")
    save_model(network, folder)
    return folder


def test_compare_prints_json_alone(command: Run, folder: Path):
    code, out, _ = command("compare", "none", "drop_last(1)", "-m", folder, "--captions", 2, "--json", "-o", "o")
    answer = json.loads(out)
    assert code == 0 and answer["model"] == "small" and len(answer["rows"]) == 2
    assert json.loads(Path("o/compare.json").read_text()) == answer
    assert command("compare", "none", "-m", folder, "--captions", 1, "-q", "-o", "o")[0] == 0  # its own files


@pytest.mark.parametrize("name", ["compare.json", "compare.md", "compare-ssim.png"])
def test_files_of_others_are_kept(command: Run, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stagevar.loaded.load", lambda *_, **__: pytest.fail("loaded"))
    Path(name).write_text("{}")
    code, _, line = command("compare", "none", "-o", ".")
    assert code == 6 and name in line and Path(name).read_text() == "{}"


def test_compare_prints_a_table_for_people(command: Run, folder: Path):
    Path("prompts.txt").write_text("a star\n\na red ring\n")
    code, out, _ = command("compare", "drop_last(1)", "-m", folder, "--captions", 2, "--prompts", "prompts.txt")
    assert code == 0 and "Measured on cpu" in out
    assert command("compare", "none", "-m", folder, "--captions", 1, "-q")[1] == ""


def test_prompts_that_cannot_be_read_are_one_line(command: Run, folder: Path):
    Path("empty.txt").touch()
    for file, error in (("nowhere.txt", MissingFileError), ("empty.txt", OptionError)):
        code, _, line = command("compare", "none", "-m", folder, "--prompts", file)
        assert code == error.exit_code and file in line and line.count("\n") == 1


def test_explain_prints_table_and_json(command: Run):
    arguments = ("explain", "-a", "stagevar_released", "-m", "infinity-2b", "--size", "1024x1024")
    code, out, _ = command(*arguments)
    assert code == 0 and "40x40" in out and "sketch" in out and "predicted" in out
    answer = json.loads(command(*arguments, "--json")[1])
    assert answer["flop_ratio"] > 3 and len(answer["rows"]) == 13
    assert command("explain", "-a", "warp")[0] == 2
    assert command("explain", "-a", "none", "-m", "infinity-2b", "--size", "seven")[0] == 2


def test_accelerators_are_listed(command: Run):
    assert all(name in command("accelerators")[1] for name in known())
    rows = {row["name"]: row for row in json.loads(command("accelerators", "--json")[1])}
    assert set(rows) == set(known())
    assert rows["drop_last"]["fields"] == {"n": "1"} and rows["drop_last"]["about"].startswith("The last n scales")


def test_generate_writes_its_trace(command: Run, folder: Path):
    from stagevar.engine.loop.trace import read

    code, _, _ = command("generate", "a star", "-n", 3, "--batch-size", 2, "-m", folder, "--trace", "t/trace.jsonl")
    traces = read(Path("t/trace.jsonl"))
    assert code == 0 and [len(trace.seeds) for trace in traces] == [2, 1]
    assert [record.scale for record in traces[0].records] == [0, 1, 2]
