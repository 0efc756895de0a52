"""Rows of a job: every kind of file, and what is no row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stagevar.errors import MissingFileError, OptionError
from stagevar.jobs.rows import LONGEST_LINE, Bad, Numbered, Row, Source, balanced, read_row

LINES = [{"id": "a", "prompt": "a star", "seed": 3}, {"id": "b", "prompt": "two rings", "guidance_scale": 2.5}]
ROWS = [Row("a", "a star", seed=3), Row("b", "two rings", guidance_scale=2.5)]


def rows(path: Path) -> list[Row]:
    source = Source.read(path)
    found = list(source)
    assert source.count() == len(found)
    return [each.row for each in found if isinstance(each, Numbered)]


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (tmp_path / "a.csv").write_text("id,prompt,seed,guidance_scale\na,a star,3,\nb,two rings,,2.5")
    columns = {name: [line.get(name) for line in LINES] for name in ("id", "prompt", "seed", "guidance_scale")}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    for suffix in ("jsonl", "csv", "parquet"):
        assert rows(tmp_path / f"a.{suffix}") == ROWS, suffix


def test_text_gives_a_row_per_line_and_a_folder_one_per_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a star\ntwo rings")
    (tmp_path / "b.txt").write_text("a ring\n")
    assert rows(tmp_path / "a.txt") == [Row("0000001", "a star"), Row("0000002", "two rings")]
    assert rows(tmp_path) == [Row("a", "a star\ntwo rings"), Row("b", "a ring")]


def test_a_blank_line_is_no_row_and_a_long_or_broken_one_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"prompt": "a"}\n\xff\n' + b"x" * (2 * LONGEST_LINE) + b'\n[1]\n{"prompt": "b"}')
    found = list(Source.read(path))
    assert [each.number for each in found] == [2, 3, 4, 5, 6]
    assert [type(each) for each in found] == [Numbered, Bad, Bad, Bad, Numbered]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": "../a", "prompt": "a"}, "no file name"),
        ({"id": ".a", "prompt": "a"}, "no file name"),
        ({"id": "a" * 201, "prompt": "a"}, "no file name"),
        ({"prompt": "a", "sead": 3}, "did you mean seed"),
        ({"prompt": "a", "guidance": 3}, "did you mean guidance_scale"),
        ({"id": "a"}, "no prompt"),
        ("a star", "object of settings"),
    ],
)
def test_what_is_no_row_is_refused(columns: object, said: str) -> None:
    found = read_row(7, columns)
    assert isinstance(found, Bad) and found.number == 7 and said in found.reason


def test_other_columns_are_ignored_and_lists_are_numbers_per_scale() -> None:
    found = read_row(1, {"prompt": 207, "category": "counting", "guidance_scale": [1, 2]})
    assert isinstance(found, Numbered) and found.row == Row("0000001", "207", guidance_scale=(1, 2))


def test_a_seed_follows_from_the_job_s_and_the_id_alone() -> None:
    one, same, other = Row("a", "x"), Row("a", "y"), Row("b", "x")
    assert one.request(0).seed == same.request(0).seed
    assert len({one.request(0).seed, one.request(1).seed, other.request(0).seed}) == 3
    assert Row("a", "x", seed=5).request(1).seed == 5
    assert one.digest() == Row("a", "x").digest() != same.digest()


def test_balanced_rows_draw_every_class_equally_often() -> None:
    prompts = [each.row.prompt for each in balanced(30, 10)]
    assert {prompt: prompts.count(prompt) for prompt in prompts} == {str(i): 3 for i in range(10)}
    assert len({each.row.id for each in balanced(30, 10)}) == 30


def test_a_source_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"cannot read .*none\.jsonl"):
        Source.read(tmp_path / "none.jsonl")
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(OptionError, match=r"ends in \.jsonl"):
        Source.read(tmp_path / "a.xlsx")
    (tmp_path / "a.csv").write_text('prompt\n"a\n')
    assert any(isinstance(each, Bad) for each in Source.read(tmp_path / "a.csv"))
