"""Plan search: genes fit a budget exactly, evolution keeps what is best, and a search that was stopped goes on."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.measure.search.choose import chooser
from stagevar.measure.search.evaluate import Journal
from stagevar.measure.search.evolve import Halving, evolve, scatter
from stagevar.measure.search.genome import DepthGenome, Genome, RowsGenome
from stagevar.measure.search.report import markdown, write
from stagevar.measure.search.search import Search, evaluated, importance, search
from stagevar.pipeline import Pipeline
from stagevar.plans import FoundPlans
from stagevar.request import Request

Run = Callable[..., tuple[int, str, str]]
SCENES = Pipeline(tiny("scenes"))
SMALL = Search(budgets=(2.0, 3.0), captions=4, held_out=3, evaluations=10, batch_size=4)


@pytest.fixture(scope="module")
def rows() -> Genome:
    return evaluated(SCENES, SMALL, (), None, {}).genome


@pytest.fixture(scope="module")
def depth() -> Genome:
    return evaluated(SCENES, Search((1.15,), genome="depth", captions=4, held_out=3), (), None, {}).genome


# --- genes -------------------------------------------------------------------


def test_plans_fit_their_budget_and_one_more_step_breaks_it(rows: Genome, depth: Genome) -> None:
    rng = random.Random(0)
    for genome, budget in ((rows, 2.0), (rows, 4.0), (depth, 1.15)):
        for _ in range(6):
            genes = genome.projected(genome.drawn(rng), budget)
            assert genome.fewer(genes) >= budget
            for i in range(len(genome.shares)):
                higher = (*genes[:i], genes[i] + 1, *genes[i + 1 :])
                assert genes[i] == genome.limits[i][1] or genome.fewer(higher) < budget


def test_what_fits_exactly_is_left_as_it_is(rows: Genome) -> None:
    genes = rows.projected(rows.shapes()["uniform"], 2.0)
    assert rows.projected(genes, 2.0) == genes


def test_a_budget_that_nothing_meets_is_refused(depth: Genome) -> None:
    with pytest.raises(OptionError, match="no plan of the genome 'depth' takes 50x fewer"):
        depth.projected(tuple(high for _, high in depth.limits), 50.0)


def test_changed_plans_stay_within_their_limits(rows: Genome, depth: Genome) -> None:
    rng = random.Random(1)
    for genome in (rows, depth):
        one, other = genome.drawn(rng), genome.drawn(rng)
        for _ in range(50):
            one, other = genome.mutated(genome.crossed(one, other, rng), rng), one
            assert all(low <= value <= high for value, (low, high) in zip(one, genome.limits, strict=True))


def test_the_full_genes_are_the_plain_run(rows: Genome, depth: Genome) -> None:
    full = tuple(high for _, high in rows.limits[: len(rows.shares)]) + (0,) * (5 + len(rows.shares))
    assert rows.plan(full) == rows.plain and rows.fewer(full) == 1
    assert depth.plan(depth.shapes()["uniform"]) == depth.plain


def test_whether_the_last_scale_is_cached_is_not_searched(rows: Genome) -> None:
    """Nothing reads its keys, so that plans which differ in that alone are one."""
    place = len(rows.shares) + 1
    assert rows.limits[place] == (0, 0) and all(high == 1 for _, high in rows.limits[place + 1 : place + 3])
    assert all(rows.projected(genes, 2.0)[place] == 0 for genes in rows.shapes().values())


def test_genes_are_of_the_last_scale_first(rows: Genome) -> None:
    count = len(rows.shares)
    plan = rows.plan((0, 8, *(16,) * (count - 2), 2, 0, 1, *(0,) * (count + 2)))
    assert (plan[len(plan) - 1].run, plan[len(plan) - 2].cache, plan[len(plan) - 3].branch) == ("skip", "none", "both")


def test_there_are_a_uniform_and_seven_hand_shapes(rows: Genome, depth: Genome) -> None:
    for genome in (rows, depth):
        assert len(genome.shapes()) == 8 and next(iter(genome.shapes())) == "uniform"


def test_the_block_that_changes_least_is_left_out_first(depth: Genome) -> None:
    assert isinstance(depth, DepthGenome) and isinstance(RowsGenome.name, str)
    order = importance(SCENES, [Request("a star", seed=0)])
    assert all(sorted(blocks) == list(range(SCENES.model.depth)) for blocks in order)
    genes = (SCENES.model.depth - 1, *depth.shapes()["uniform"][1:])
    [(low, high)] = depth.late(genes)[-1].left_out
    assert (low, high) == (depth.order[0][0] / SCENES.model.depth, (depth.order[0][0] + 1) / SCENES.model.depth)


# --- strategies --------------------------------------------------------------


class Known:
    """An evaluation whose best plan is known: SSIM falls with the distance of the genes to a goal."""

    def __init__(self, goal: tuple[int, ...]) -> None:
        self.goal, self.asked = goal, 0

    def mean(self, genes: tuple[int, ...], captions: range) -> float:
        self.asked += len(captions)
        return 1 - sum(abs(a - b) for a, b in zip(genes, self.goal, strict=True)) / 100


def test_halving_lets_the_better_half_go_on() -> None:
    known = Known((5,))
    found = Halving(known, (1, 4))([(0,), (5,), (4,), (9,)])  # type: ignore[arg-type]
    assert list(found) == [(5,), (4,)] and known.asked == 4 * 1 + 2 * 4


def test_evolution_comes_nearer_than_random_search_of_as_many_plans(rows: Genome) -> None:
    goal = rows.projected((3, 9, *(14,) * (len(rows.shares) - 2), 2, 1, 1, *(0,) * (len(rows.shares) + 2)), 2.0)
    best = []
    for strategy in (evolve, scatter):
        told: list[int] = []
        halving = Halving(Known(goal), (1, 2))  # type: ignore[arg-type]
        found = strategy(rows, 2.0, 60, halving, 0, lambda done, value, told=told: told.append(done))
        assert told[-1] == 60 and list(found.values()) == sorted(found.values(), reverse=True)
        best.append(max(found.values()))
    assert best[0] > best[1]


# --- the choice per picture --------------------------------------------------


def test_a_choice_expects_what_nine_of_ten_pictures_reach() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = 0.9 + 0.02 * x[:, 0] + 0.005 * rng.normal(size=60)
    found = chooser(0.2, x.tolist(), [y.tolist()])
    new = rng.normal(size=(400, 3))
    real = 0.9 + 0.02 * new[:, 0] + 0.005 * rng.normal(size=400)
    reached = np.mean([value >= found.expected(row)[0] for row, value in zip(new.tolist(), real, strict=True)])
    assert 0.82 < reached < 0.98 and found.margins[0] < 0.02


# --- the whole search --------------------------------------------------------


def test_a_search_writes_plans_that_can_be_drawn_and_goes_on_where_it_was(tmp_path: Path) -> None:
    journal = tmp_path / "search.jsonl"
    first = search(SCENES, SMALL, journal=journal)
    lines = journal.read_text().splitlines(keepends=True)
    files = write(tmp_path, first)
    assert [file.name for file in files] == ["plans.json", "search.json", "search.md", "search.png"]
    found = FoundPlans.load(files[0])
    assert found == first.plans and len(found.plans) == 2 and found.chooser is not None
    for plan, budget in zip(found.plans, SMALL.budgets, strict=True):
        assert plan.fewer >= budget
    row = first.report["budgets"][0]["rows"][0]
    assert row["plan"] == "found" and row["behind"] == 0 and "found" in markdown(first.report)
    accelerator = f"planned(file={str(files[0])!r}, target=0.0)"
    trace = SCENES("a star", seed=1, accelerator=accelerator).trace
    assert trace.executed(0) and sum(record.rows for record in trace.records) < 150
    journal.write_text("".join(lines[:-5]) + lines[-5][:20])  # killed while it wrote
    again = search(SCENES, SMALL, journal=journal)
    assert again.plans == first.plans and again.report["drawn"] == 5
    with pytest.raises(OptionError, match="seed 0 there, 1 here"):
        search(SCENES, Search(captions=4, held_out=3, evaluations=10, seed=1), journal=journal)


@pytest.mark.parametrize("text", ["nothing\n", "nothing", "\xff", '{"format": "stagevar search 1"}\n{"genes": [1]}\n'])
def test_a_journal_of_something_else_is_kept(text: str, tmp_path: Path) -> None:
    (tmp_path / "search.jsonl").write_text(text, encoding="latin-1")
    with pytest.raises(OptionError, match=r"search\.jsonl, line [12]: no line of this program"):
        Journal(tmp_path / "search.jsonl", {})
    assert (tmp_path / "search.jsonl").read_text(encoding="latin-1") == text


def test_a_search_that_was_killed_at_its_first_line_begins_anew(tmp_path: Path) -> None:
    Journal(tmp_path / "whole.jsonl", {"seed": 1})
    whole = (tmp_path / "whole.jsonl").read_text()
    (tmp_path / "cut.jsonl").write_text(whole[:20])
    Journal(tmp_path / "cut.jsonl", {"seed": 1})
    assert (tmp_path / "cut.jsonl").read_text() == whole


@pytest.mark.parametrize("name", ["plans.json", "search.json", "search.md", "search.png"])
def test_files_of_others_are_kept(command: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagevar.loaded.load", lambda *_, **__: pytest.fail("loaded"))
    Path(name).write_text("mine")
    code, _, line = command("search", "-o", ".")
    assert code == 6 and name in line and Path(name).read_text() == "mine" and not Path("search.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"budgets": (1.0,)}, "above 1"),
        ({"budgets": (2.0, math.nan)}, "above 1"),
        ({"budgets": (math.inf,)}, "above 1"),
        ({"captions": 1}, "captions must be 2"),
        ({"evaluations": 0}, "evaluations must be 1"),
        ({"genome": "width"}, "rows, depth"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Search(**settings)  # type: ignore[arg-type]


def test_held_out_prompts_are_other_ones() -> None:
    with pytest.raises(OptionError, match="2 prompts for 4 captions and 3 held out; give 7"):
        search(SCENES, SMALL, prompts=["a star", "a ring"])


def test_the_command_searches_and_refuses_before_it_loads(command: Run, tmp_path: Path) -> None:
    save_model(tiny("scenes"), tmp_path / "model")
    options = ("-m", "model", "--captions", 4, "--held-out", 2, "--evaluations", 4, "-o", "s")
    code, out, _ = command("search", *options, "--budget", 2, "--json")
    assert code == 0 and json.loads(out)["budgets"][0]["budget"] == 2 and Path("s/plans.json").is_file()
    pipe, use = Pipeline.from_pretrained("model"), json.loads(out)["use"]
    assert pipe.prepare(Request("a star", accelerator=use)).plan != pipe.prepare(Request("a star")).plan
    code, out, _ = command("search", *options, "--budget", 2)
    assert code == 0 and "held out" in out and out.endswith(f"{use}\n")
    code, _, line = command("search", *options, "--budget", 900)
    assert code == 2 and "no plan of the genome" in line
