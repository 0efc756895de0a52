"""Folders of jobs: what others put there stays, what was removed is drawn again, and what is damaged is named."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from stagevar.errors import Cancelled, OptionError, OutputError
from stagevar.jobs.drawn import Drawn
from stagevar.jobs.job import Job
from stagevar.jobs.ledger import Ledger
from stagevar.jobs.rows import Numbered, Row
from stagevar.jobs.store import Store

from .job_parts import COUNT, Stand, archives, numbered, run


def record_of(name: str) -> str:
    return json.dumps({"id": name, "stagevar": "0", "seed": 1, "scales": []})


def test_files_that_this_job_did_not_write_stay(tmp_path: Path) -> None:
    """Those of another job, beside a record of stagevar, among them."""
    others = {"r0.png": "mine", "r1.json": "{}", "r2.json": record_of("r2"), "r2.png": "mine", "r3.json": "mine"}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    job, stand = Job(numbered(5), Store(tmp_path), {}), Stand()
    for _ in range(2):
        assert run(job, stand).bad == 4 and stand.asked == ["r4"]
        assert {name: (tmp_path / name).read_text() for name in others} == others
    assert job.bad_rows.read_text().count("is there already, and not from this job") == 4


def test_pictures_that_were_written_and_not_noted_are_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, stand = Job(numbered(3), Store(tmp_path), {}), Stand()
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "finish", lambda *_, **__: (_ for _ in ()).throw(Cancelled()))
        with pytest.raises(Cancelled):
            run(job, stand)
    (tmp_path / "r0.png").write_bytes(b"half")
    (tmp_path / "r1.png").write_bytes(b"mine")
    done = run(job, stand)
    assert stand.asked == ["r0", "r0", "r2"] and (done.drawn, done.bad) == (2, 1)
    assert (tmp_path / "r0.png").read_bytes() == b"png" and (tmp_path / "r1.png").read_bytes() == b"mine"


def test_a_picture_that_was_removed_is_drawn_again(tmp_path: Path) -> None:
    job, stand = Job(numbered(6), Store(tmp_path), {}), Stand()
    run(job, Stand())
    for name in ("r1.png", "r3.png", "r3.json", "r4.png", "r5.json"):
        (tmp_path / name).unlink()
    (tmp_path / "r4.json").write_text("mine")
    done = run(job, stand)
    assert stand.asked == ["r1", "r3"] and (done.before, done.drawn, done.bad) == (3, 2, 1)
    assert (tmp_path / "r4.json").read_text() == "mine" and run(job, stand).before == 5


def test_a_removed_picture_s_row_may_change(tmp_path: Path) -> None:
    run(Job([Numbered(1, Row("r0", "1"))], Store(tmp_path), {}), Stand())
    (tmp_path / "r0.png").unlink()
    assert run(Job([Numbered(1, Row("r0", "2"))], Store(tmp_path), {}), Stand()).drawn == 1


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


def test_a_database_of_another_program_or_with_damaged_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    path = tmp_path / "job" / "ledger.sqlite"
    for made in ("CREATE TABLE job (title TEXT)", "CREATE TABLE notes (text TEXT)"):
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as database:
            database.execute(made)
        database.close()
        before = path.read_bytes()
        with pytest.raises(OutputError, match=r"ledger\.sqlite is damaged or no record of a job"):
            Job(numbered(), Store(tmp_path), {}).open()
        assert path.read_bytes() == before
    path.unlink()
    run(Job(numbered(1), Store(tmp_path), {}), Stand())
    for text in ('{"model"', "[1]", "7"):
        with sqlite3.connect(path) as database:
            database.execute("UPDATE job SET settings = ?", (text,))
        database.close()
        with pytest.raises(OutputError, match=r"ledger\.sqlite is damaged: its settings"):
            Job(numbered(), Store(tmp_path), {}).open()


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
