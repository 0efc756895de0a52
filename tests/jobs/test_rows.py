"""Rows of a job: every kind of file, and what is no row."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from stagevar.errors import MissingFileError, OptionError
from stagevar.jobs.columns import LONGEST_LINE
from stagevar.jobs.rows import SETTINGS, Bad, Numbered, Row, Source, balanced, read_row
from stagevar.request import Request

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
        ({"id": "\ud800", "prompt": "a"}, "no file name"),
        ({"id": "a\nb", "prompt": "a"}, "no file name"),
        ({"id": "a\x1b[2J", "prompt": "a"}, "no file name"),
        ({"id": True, "prompt": "a"}, "no file name"),
        ({"id": [1], "prompt": "a"}, "no file name"),
        ({"prompt": "a", "strength": 0.5}, "has no strength: a job begins with no picture"),
        ({"prompt": "a", "num_images_per_prompt": 4}, "has no num_images_per_prompt: give a row per picture"),
        ({"prompt": "a", "plan": []}, "has no plan: only calls in Python take it"),
        ({"prompt": "a", "cfg": 3}, "use guidance_scale"),
        ({"prompt": "a", "\ud800image\n": 3, "sead": 3}, "did you mean seed"),
        ({"prompt": "a", "sead": 3}, "did you mean seed"),
        ({"prompt": "a", "guidance": 3}, "use guidance_scale"),
        ({"id": "a"}, "no prompt"),
        ("a star", "object of settings"),
    ],
)
def test_what_is_no_row_is_refused(columns: object, said: str) -> None:
    found = read_row(7, columns)
    assert isinstance(found, Bad) and found.number == 7 and said in found.reason


def test_other_columns_are_ignored_and_lists_are_numbers_per_scale() -> None:
    others = {"category": "counting", "image": "photo.png", "size": 3, "token": "x"}
    found = read_row(1, {"prompt": 207, **others, "guidance_scale": [1, 2]})
    assert isinstance(found, Numbered) and found.row == Row("0000001", "207", guidance_scale=(1, 2))


def test_a_row_takes_every_setting_of_a_request_that_is_plain_data() -> None:
    plain = {field.name for field in fields(Request)} - {"plan", "edit", "forced", "encoded", "negative_encoded"}
    assert set(SETTINGS) == plain | {"id"}
    found = read_row(1, {"unconditional": True, "smooth": False, "strict": True, "height": 8, "width": 8})
    assert isinstance(found, Numbered)
    request = found.row.request(0)
    assert (request.prompt, request.unconditional, request.smooth, request.strict) == ("", True, False, True)


@pytest.mark.parametrize("none", [None, float("nan")])
def test_null_and_nan_are_no_values_and_whole_floats_are_whole_numbers(none: float | None) -> None:
    """As pandas writes columns with gaps."""
    open_ = read_row(7, {"id": none, "prompt": 207.0, "seed": none, "top_k": [0.0, 50.0], "image": none})
    assert isinstance(open_, Numbered) and open_.row == Row("0000007", "207", top_k=(0, 50))
    given = read_row(7, {"id": 3.0, "prompt": "a", "seed": 5.0, "guidance_scale": 5.0})
    assert isinstance(given, Numbered) and repr(given.row) == repr(Row("3", "a", seed=5, guidance_scale=5.0))
    assert read_row(7, {"prompt": none}) == Bad(7, "0000007", "the row has no prompt")


def test_an_id_may_be_of_any_script() -> None:
    for name in ("été 2", "星", "a\u200db", "👩\u200d🎨"):
        assert isinstance(read_row(1, {"id": name, "prompt": "a"}), Numbered), name


def test_cells_of_csv_are_read_as_the_command_line_reads_them(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text(
        "prompt,seed,top_k,guidance_scale,aspect_ratio,smooth,note\n"
        'a star,18446744073709551615,"0,0,0,50","1.5, 2",3:2,True,x\n'
        "207,7.0,50.0,2,1.5,false,\n"
    )
    first, second = rows(path)
    settings = {"top_k": (0, 0, 0, 50), "guidance_scale": (1.5, 2.0), "aspect_ratio": "3:2", "smooth": True}
    assert first == Row("0000001", "a star", seed=2**64 - 1, **settings)  # type: ignore[arg-type]
    assert repr(second) == repr(Row("0000002", "207", 7, None, None, None, None, 1.5, None, 2.0, None, 50, None, False))


@pytest.mark.parametrize(
    "broken",
    [
        b"\xff,a",
        b"b,a\xffb",
        b'b,"a',
        b'b,"a"b',
        b"b",
        b"b,a,c",
        b"b," + b"a" * (LONGEST_LINE + 1),
        b'b,"' + b"a\n" * 2,
    ],
)
def test_a_broken_line_of_csv_harms_no_other(tmp_path: Path, broken: bytes) -> None:
    long = b"long," + b"a" * 200_000
    (path := tmp_path / "a.csv").write_bytes(b"id,prompt\nfirst,a\n" + broken + b"\nnext,b\n" + long + b"\nlast,c")
    found = list(Source.read(path))
    names = [each.row.id for each in found if isinstance(each, Numbered)]
    assert names == ["first", "next", "long", "last"] and any(isinstance(each, Bad) for each in found)


def test_a_file_without_rows_or_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    for name, text in (("a.jsonl", ""), ("b.txt", "\n\n"), ("c.csv", ""), ("d.csv", "id,prompt\n"), ("e/f.md", "a")):
        (path := tmp_path / name).parent.mkdir(exist_ok=True)
        path.write_text(text)
        with pytest.raises(OptionError, match="holds no row"):
            Source.read(path if path.parent == tmp_path else path.parent)
    (path := tmp_path / "g.csv").write_text("prompt,seed,prompt\na,1,b\n")
    with pytest.raises(OptionError, match=r"g\.csv has several columns named 'prompt'"):
        Source.read(path)
    path.write_bytes(b"prompt,\xff\na,1\n")
    with pytest.raises(OptionError, match=r"first line of .*g\.csv is no UTF-8"):
        Source.read(path)


def test_a_damaged_page_of_parquet_is_refused_by_the_file_s_name(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table, path = pyarrow.table({"prompt": [f"a star {i}" for i in range(4000)]}), tmp_path / "a.parquet"
    parquet.write_table(table, path, row_group_size=2000, use_dictionary=False, compression="zstd")
    data = bytearray(path.read_bytes())
    start = parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    found = []
    with pytest.raises(MissingFileError, match=r"cannot read .*a\.parquet"):
        found.extend(Source.read(path))
    assert Source.read(path).count() == 4000
    path.write_bytes(data[:-100])
    with pytest.raises(MissingFileError, match=r"cannot read .*a\.parquet"):
        Source.read(path)


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
