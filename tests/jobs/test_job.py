"""Jobs: what is finished is never drawn again and never lost, whatever ends a run."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stagevar.errors import Cancelled, OptionError, OutputError
from stagevar.families.tiny import tiny
from stagevar.jobs.drawn import Drawer, Drawn
from stagevar.jobs.job import Job, Progress
from stagevar.jobs.ledger import Ledger
from stagevar.jobs.rows import Bad, Numbered, Row, read_row
from stagevar.jobs.store import Store
from stagevar.pipeline import Pipeline

COUNT = 10

Run = Callable[..., tuple[int, str, str]]


def numbered(count: int = COUNT) -> list[Numbered]:
    return [Numbered(i + 1, Row(f"r{i}", str(i % 4))) for i in range(count)]


class Stand:
    """Draws nothing, and notes what it was asked for. Raises before the given picture."""

    def __init__(self, fails_before: int = -1) -> None:
        self.asked: list[str] = []
        self.fails_before = fails_before

    def __call__(self, rows: Iterable[Sequence[Numbered]]) -> Iterator[list[Drawn] | Bad]:
        for window in rows:
            for each in window:
                if len(self.asked) == self.fails_before:
                    raise Cancelled
                self.asked.append(each.row.id)
                record = {"id": each.row.id, "prompt": "a", "seed": 1, "accelerator": "none"}
                yield [Drawn(each.row.id, each.row.digest(), b"png", record | {"stagevar": "0", "scales": []})]


def run(job: Job, stand: Stand) -> Progress:
    with job.open() as ledger:
        return job.run(ledger, stand)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def archives(folder: Path) -> list[list[str]]:
    """Names of the members of each archive."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            found.append(archive.getnames())
    return found


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


def test_files_of_others_stay_and_a_half_written_picture_of_ours_is_drawn_again(tmp_path: Path) -> None:
    (tmp_path / "r0.png").write_bytes(b"mine")
    (tmp_path / "r1.json").write_text("{}")
    record = {"id": "r2", "stagevar": "0", "seed": 1, "scales": []}
    (tmp_path / "r2.json").write_text(json.dumps(record))
    (tmp_path / "r2.png").write_bytes(b"half")
    job, stand = Job(numbered(4), Store(tmp_path), {}), Stand()
    assert run(job, stand).bad == 2 and stand.asked == ["r2", "r3"]
    assert (tmp_path / "r0.png").read_bytes() == b"mine" and (tmp_path / "r1.json").read_text() == "{}"
    assert "is there already" in job.bad_rows.read_text()


def test_a_folder_belongs_to_one_job_and_one_process(tmp_path: Path) -> None:
    job = Job(numbered(), Store(tmp_path), {"accelerator": "none"})
    with job.open() as ledger:
        job.run(ledger, Stand())
        with pytest.raises(OptionError, match="another process works on"):
            job.open()
    with pytest.raises(OptionError, match="holds a job with accelerator 'none', not 'stagevar'"):
        Job(numbered(), Store(tmp_path), {"accelerator": "stagevar"}).open()
    with pytest.raises(OptionError, match="holds a job with format 'files', not 'webdataset'"):
        Job(numbered(), Store(tmp_path, "webdataset"), {"accelerator": "none"}).open()


def test_a_place_that_is_taken_or_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not of a job"):
        Job(numbered(), Store(tmp_path), {}).open()
    (tmp_path / "job" / "ledger.sqlite").write_text("mine" * 1000)
    with pytest.raises(OutputError, match="damaged"):
        Job(numbered(), Store(tmp_path), {}).open()
    assert (tmp_path / "job" / "ledger.sqlite").read_text() == "mine" * 1000


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


def test_a_shard_that_was_written_but_not_noted_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    job = Job(numbered(), Store(tmp_path, "webdataset", 4), {}, batch_size=2)
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "shelve", lambda *_: (_ for _ in ()).throw(Cancelled()))
        with pytest.raises(Cancelled):
            run(job, Stand())
    assert run(job, Stand()).before == 4
    names = [name for each in archives(tmp_path) for name in each]
    assert len(names) == len(set(names)) == 2 * COUNT


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_file_of_others_that_has_the_name_of_a_shard_stays(tmp_path: Path, form: str, number: int) -> None:
    job, stand = Job(numbered(), Store(tmp_path, form, 4), {}, batch_size=2), Stand()  # type: ignore[arg-type]
    other = job.store.shard(number)
    other.write_text("mine")
    for _ in range(2):
        with pytest.raises(OutputError, match=rf"{other.name} is there already, and not from this job"):
            run(job, stand)
        assert other.read_text() == "mine"
    assert len(stand.asked) == 8 * number, "what can be known is known before anything is drawn"
    other.unlink()
    assert run(job, stand).bad == 0 and sorted(stand.asked) == sorted(f"r{i}" for i in range(COUNT))


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_a_damaged_shard_is_named_and_its_rows_are_drawn_again_once_it_is_removed(tmp_path: Path, form: str) -> None:
    job = Job(numbered(), Store(tmp_path, form, 4), {}, batch_size=2)  # type: ignore[arg-type]
    run(job, Stand())
    path = job.store.shard(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(OutputError, match=rf"{path.name} is damaged: it has .* remove it"):
        run(job, Stand())
    path.unlink()
    stand = Stand()
    done = run(job, stand)
    assert stand.asked == ["r4", "r5", "r6", "r7"] and (done.before, done.drawn) == (6, 4)
    assert not path.exists() and job.store.shard(3).exists(), "further shards get further numbers"
    assert run(job, Stand()).before == COUNT


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


def test_the_ledger_is_whole_at_any_moment(tmp_path: Path) -> None:
    """A copy of its files, as a kill leaves them, holds what was noted before."""
    job = Job(numbered(), Store(tmp_path / "a"), {})
    with job.open() as ledger:
        ledger.finish([Drawn("x", b"d", b"", {})], waiting=False)
        (tmp_path / "b").mkdir()
        for path in (tmp_path / "a" / "job").iterdir():
            (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    rows = sqlite3.connect(tmp_path / "b" / "ledger.sqlite").execute("SELECT id FROM finished").fetchall()
    assert rows == [("x",)]


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
