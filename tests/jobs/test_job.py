"""Jobs: what is finished is never drawn again and never lost, whatever ends a run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stagevar.errors import Cancelled, MissingFileError, OutputError
from stagevar.families.tiny import tiny
from stagevar.jobs.drawn import Drawer, Drawn
from stagevar.jobs.job import Job
from stagevar.jobs.rows import Bad, Numbered, Row, read_row
from stagevar.jobs.store import Store
from stagevar.pipeline import Pipeline

from .job_parts import COUNT, Stand, archives, files, numbered, run

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("form", ["files", "webdataset", "parquet"])
def test_a_run_that_ends_early_goes_on_and_repeats_nothing(tmp_path: Path, form: str) -> None:
    job = Job(numbered(), Store(tmp_path, form, shard_size=4), {"model": "x"}, batch_size=2)  # type: ignore[arg-type]
    first, second, third = Stand(fails_before=7), Stand(), Stand()
    with pytest.raises(Cancelled):
        run(job, first)
    done = run(job, second)
    assert first.asked + second.asked == [each.row.id for each in numbered()]
    assert (done.before, done.drawn, done.bad) == (7, 3, 0)
    done = run(job, third)
    assert not third.asked and (done.before, done.drawn) == (COUNT, 0)
    assert not job.bad_rows.exists()
    if form == "files":
        assert files(tmp_path) == {f"r{i}.{suffix}" for i in range(COUNT) for suffix in ("png", "json")}
    elif form == "webdataset":
        members = archives(tmp_path)
        assert [len(each) for each in members] == [8, 8, 4]
        assert {name for each in members for name in each} == {
            f"r{i}.{s}" for i in range(COUNT) for s in ("png", "json")
        }
    else:
        from pyarrow import parquet

        tables = [parquet.read_table(path) for path in sorted(tmp_path.glob("*.parquet"))]
        assert [table.num_rows for table in tables] == [4, 4, 2]
        assert tables[0].to_pylist()[1]["image"] == {"bytes": b"png", "path": "r1.png"}
        assert json.loads(tables[0].schema.metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}


def test_rows_of_one_id_and_changed_rows_are_bad(tmp_path: Path) -> None:
    rows = [*numbered(3), Numbered(4, Row("r0", "9")), Numbered(5, Row("r1", "1")), Bad(6, "", "no JSON")]
    job = Job(rows, Store(tmp_path), {})
    done = run(job, Stand())
    assert (done.drawn, done.before, done.bad) == (3, 1, 2)
    assert [json.loads(line)["number"] for line in job.bad_rows.read_text().splitlines()] == [4, 6]
    done = run(Job([Numbered(1, Row("r2", "changed"))], Store(tmp_path), {}), Stand())
    assert (done.drawn, done.bad) == (0, 1)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": " "}, "empty"),
        ({"prompt": ["a"]}, "must be text"),
        ({"prompt": "a", "seed": "many"}, "seed"),
        ({"prompt": "a", "seed": -1}, "seed"),
        ({"prompt": "a", "height": 64}, "both height and width"),
    ],
)
def test_a_row_that_no_model_draws_reaches_none(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    job, stand = Job([read_row(1, columns)], Store(tmp_path), {}), Stand()
    assert run(job, stand).bad == 1 and not stand.asked and said in job.bad_rows.read_text()


def test_what_is_no_text_is_a_bad_row(tmp_path: Path) -> None:
    columns = [{"prompt": "\ud800"}, {"prompt": "a", "negative_prompt": "\ud800"}, {"prompt": "a", "seed": "\ud800"}]
    rows = [read_row(i, each) for i, each in enumerate([{"id": "\ud800", "prompt": "a"}, *columns, {"prompt": "a"}])]
    job, stand = Job(rows, Store(tmp_path), {}), Stand()
    assert run(job, stand).bad == 4 and stand.asked == ["0000004"]
    assert [json.loads(line)["number"] for line in job.bad_rows.read_text().splitlines()] == [0, 1, 2, 3]


def test_rows_that_can_no_longer_be_read_end_a_run_by_their_own_name(tmp_path: Path) -> None:
    def rows() -> Iterator[Numbered]:
        yield from numbered(2)
        raise MissingFileError("cannot read rows.parquet")

    with pytest.raises(MissingFileError, match="cannot read rows"):
        run(Job(rows(), Store(tmp_path), {}, batch_size=1), Stand())


def test_what_cannot_be_written_ends_the_run_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, write, left = Job(numbered(), Store(tmp_path), {}), Store.write, 4

    def full(store: Store, drawn: Sequence[Drawn]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OutputError("no space left on device")
        write(store, drawn)

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(OutputError, match="no space"):
        run(job, Stand())
    monkeypatch.undo()
    assert run(job, Stand()).before == 4


def test_webdataset_takes_no_id_with_a_dot(tmp_path: Path) -> None:
    job = Job([Numbered(1, Row("a.b", "1"))], Store(tmp_path, "webdataset"), {})
    assert run(job, Stand()).bad == 1 and "dot" in job.bad_rows.read_text()


@pytest.fixture(scope="module")
def drawer() -> Drawer:
    return Drawer(Pipeline(tiny("var")), 0, 4)


def test_pictures_are_those_of_the_pipeline_and_a_row_harms_no_other(drawer: Drawer) -> None:
    rows = [Numbered(1, Row("a", "1")), Numbered(2, Row("b", "no such class")), Numbered(3, Row("c", "2", seed=7))]
    rows += [
        Numbered(4, Row("d", "3", accelerator="drop_last(99)")),
        Numbered(5, Row("e", "1", accelerator="drop_last")),
    ]
    found = list(drawer(rows))
    assert {each.id for each in found if isinstance(each, Bad)} == {"b", "d"}
    drawn = {each.id: each for batch in found if not isinstance(batch, Bad) for each in batch}
    assert set(drawn) == {"a", "c", "e"} and drawn["e"].record["accelerator"] == "drop_last"
    alone = drawer.pipe("2", seed=7).images[0]
    assert Image.open(io.BytesIO(drawn["c"].png)).tobytes() == alone.tobytes()
    ran = [scale["scale"] for scale in drawn["e"].record["scales"]]
    assert ran == [scale["scale"] for scale in drawn["a"].record["scales"]][:-1]


def test_a_picture_whose_numbers_fail_is_found_and_the_others_are_drawn(
    drawer: Drawer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = drawer.pipe.model.condition

    def poisoned(text, negative=None):  # type: ignore[no-untyped-def]
        made = condition(text, negative)
        for row, label in enumerate(text.features):
            if label.item() == 2:
                made.pooled[row] = torch.nan
        return made

    monkeypatch.setattr(drawer.pipe.model, "condition", poisoned)
    job = Job(numbered(4), Store(tmp_path), {}, 4)
    with job.open() as ledger:
        done = job.run(ledger, lambda windows: (each for window in windows for each in drawer(window)))
    assert (done.drawn, done.bad) == (3, 1)
    assert json.loads(job.bad_rows.read_text())["id"] == "r2"
    assert json.loads((tmp_path / "r1.json").read_text())["prompt"] == "1"


def test_the_command_draws_and_goes_on(tmp_path: Path, command: Run) -> None:
    rows = Path(__file__).parents[2] / "examples" / "rows.jsonl"
    code, out, _ = command("batch", rows, "-o", tmp_path / "out", "--json")
    assert code == 0 and json.loads(out)["drawn"] == 4
    ids = "star", "rings", "squares", "beside"
    assert files(tmp_path / "out") == {f"{each}.{suffix}" for each in ids for suffix in ("png", "json")}
    assert command("again", tmp_path / "out" / "rings.png", "-o", tmp_path)[1].startswith(
        "the same picture, pixel by pixel\n"
    )
    code, out, _ = command("batch", rows, "-o", tmp_path / "out", "--json")
    assert code == 0 and json.loads(out)["before"] == 4
    for words, said in [
        ((), "give a file of rows"),
        ((rows, "--balanced", 5), "give a file of rows"),
        (("--balanced", 5), "takes prompts, not classes"),
        ((rows, "--format", "zip"), "files, webdataset, parquet"),
        ((rows, "--workers", 2), "give --ray too"),
        ((rows, "-a", "drop_last(99)", "-o", tmp_path / "new"), "can be named"),
        ((tmp_path / "none.csv",), "cannot read"),
    ]:
        code, _, error = command("batch", *words)
        assert code != 0 and said in error, words
    assert not (tmp_path / "new").exists(), "what was refused before drawing leaves no job behind"
