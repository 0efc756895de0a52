"""Results of benchmarks: appended with date, commit and command, and refused where no run can have written them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stagevar.families.tiny import tiny
from stagevar.measure.bench.compare import compare
from stagevar.pipeline import Pipeline

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("blocks", "blocks_editing", "blocks_ranking", "plausible", "report", "store"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def comparison() -> dict[str, Any]:
    found = compare(Pipeline(tiny("scenes")), ["drop_last(1)", "stagevar"], captions=7, batch_size=3)
    return dict(json.loads(json.dumps({"comparison": found})))


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the last line of a file as somebody would who knows how its hash is made."""
    import store

    *before, last = path.read_text(encoding="utf-8").splitlines()
    run = json.loads(last)
    del run["sha256"]
    change(run)
    path.write_text("\n".join([*before, json.dumps(run | {"sha256": store.digest(run)})]) + "\n", encoding="utf-8")


def test_a_run_is_appended_with_date_commit_and_command(tmp_path: Path, comparison: dict[str, Any]) -> None:
    import store

    for device in ("cpu", "cuda:0", "cpu"):
        store.append("front", device, comparison, tmp_path)
    runs = list(store.read(tmp_path / "front.jsonl"))
    assert [run["device"] for run in runs] == ["cpu", "cuda", "cpu"]
    assert all(run["report"] == comparison and run["command"] and run["date"] for run in runs)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert runs[0]["commit"].removesuffix("-dirty") == head.stdout.strip()


def test_the_newest_run_of_each_device_is_reported_the_cpu_first(tmp_path: Path) -> None:
    import store

    for device, figure in (("cuda", 1), ("cpu", 2), ("cpu", 3), ("cuda", 4)):
        store.append("speed", device, {"figure": figure}, tmp_path)
    found = store.newest("speed", tmp_path)
    assert [(device, run["report"]["figure"]) for device, run in found.items()] == [("cpu", 3), ("cuda", 4)]


def test_a_changed_figure_is_found_by_the_hash(tmp_path: Path, comparison: dict[str, Any]) -> None:
    import store

    store.append("front", "cpu", comparison, tmp_path)
    path = tmp_path / "front.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"captions": 7', '"captions": 70'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"front\.jsonl, line 1: its hash is another"):
        list(store.read(path))


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no command": (lambda run: run.update(command=""), "no command"),
    "no commit": (lambda run: run.update(commit=""), "no commit"),
    "no date": (lambda run: run.update(date="yesterday"), "yesterday"),
    "an older date": (lambda run: run.update(date="2020-01-01T00:00:00+00:00"), "older than the line above"),
    "a nan": (lambda run: row(run).update(psnr=float("nan")), "psnr is nan"),
    "a score above one": (lambda run: row(run).update(oracle=1.01, oracle_difference=1.01), "no share"),
    "a score without its difference": (lambda run: row(run).update(oracle=row(run)["oracle"] + 0.25), "difference"),
    "an SSIM above one": (lambda run: row(run).update(ssim=1.5), "no SSIM"),
    "a speed-up outside of its quartiles": (lambda run: row(run).update(speedup=9e9), "quartiles"),
    "a speed-up of no two batches": (
        lambda run: row(run).update(speedup=9e9, speedup_quartiles=[1e9, 1e10]),
        "no two batches",
    ),
    "seconds that are no sum": (lambda run: row(run).update(network_seconds=1e-9), "no sum of 3 batches"),
    "more network than all": (lambda run: row(run).update(network_seconds=9e9), "longer than all"),
    "a median outside of its range": (
        lambda run: row(run)["network_batch"].update(median=9e9),
        "outside of its range",
    ),
    "a scale too many": (lambda run: row(run).update(executed_scales=[0, 1, 2, 3, 99]), "scales"),
    "a plain run that is none": (lambda run: run["report"]["comparison"]["rows"].pop(0), "not the plain run|no two"),
    "a row without figures": (lambda run: row(run).pop("network_seconds"), "network_seconds"),
}


def row(run: dict[str, Any]) -> dict[str, Any]:
    """Of the second accelerator."""
    found: dict[str, Any] = run["report"]["comparison"]["rows"][1]
    return found


@pytest.mark.parametrize("forgery", FORGERIES)
def test_figures_that_contradict_one_another_are_refused(
    forgery: str, tmp_path: Path, comparison: dict[str, Any]
) -> None:
    import store

    change, why = FORGERIES[forgery]
    for _ in range(2):
        store.append("front", "cpu", comparison, tmp_path)
    assert len(list(store.read(tmp_path / "front.jsonl"))) == 2
    forge(tmp_path / "front.jsonl", change)
    with pytest.raises(ValueError, match=rf"line 2: .*({why})"):
        list(store.read(tmp_path / "front.jsonl"))


def test_a_commit_that_is_in_no_history_is_named(tmp_path: Path) -> None:
    import store

    if not (BENCHMARKS.parent / ".git").exists():
        pytest.skip("no checkout")
    store.append("speed", "cpu", {"figure": 1}, tmp_path)
    assert store.unknown_commits(tmp_path) == []
    forge(tmp_path / "speed.jsonl", lambda run: run.update(commit="0" * 40))
    assert store.unknown_commits(tmp_path) == ["0" * 40]


def test_a_run_on_a_squashed_commit_is_known_and_said_to_be_one(tmp_path: Path) -> None:
    import report
    import store

    squashed = min(store.SQUASHED)
    store.append("speed", "cpu", {"figure": 1}, tmp_path)
    forge(tmp_path / "speed.jsonl", lambda run: run.update(commit=f"{squashed}-dirty"))
    assert store.unknown_commits(tmp_path) == []
    (run,) = store.read(tmp_path / "speed.jsonl")
    assert report.origin(run).endswith(f"commit {squashed[:7]} with changes, since squashed.")


def test_migrated_results_say_that_their_command_is_not_known() -> None:
    import store

    runs = [run for path in store.RESULTS.glob("*.jsonl") for run in store.read(path)]
    assert runs and all(run["command"] or "not recorded" in run["migrated"] for run in runs)


def test_the_ranking_has_our_default_and_every_rival_and_no_control() -> None:
    from blocks_ranking import leads_of

    names = "none", "drop_last", "drop_last(1)+guidance_off(1)", "stagevar(quality=0.3)", "stagevar", "fastvar"
    rows = [
        {"accelerator": name, "flops": 1.0 / (i + 1), "ssim": 1 - i / 10, "ssim_error": 0.01}
        for i, name in enumerate(names)
    ]
    assert [each.row["accelerator"] for each in leads_of(rows)] == ["stagevar", "fastvar"]
    assert all(each.least for each in leads_of(rows)), "the controls end before both"


def test_the_figures_of_edits_are_shown(tmp_path: Path) -> None:
    from blocks_editing import editing

    shares = {"as_asked": 0.9, "edited": 0.92, "unchanged": 0.97, "reconstructed": 1.0}
    found = {"pictures": 10, "captions": 6, "accuracy": 0.8, "nats": -1234.5}
    report = {"accelerator": "none", "settings": {"strength": 0.9}, "edits": 100, **shares, "likelihood": found}
    shown = editing(report)
    assert "reads 90.0% (± 3.0%) as asked" in shown and "80.0% of 10" in shown and "-1234 nats" in shown
