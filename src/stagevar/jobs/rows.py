"""The rows of a job: read one by one from a file or folder, so that millions of them need no memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal
from unicodedata import category

from stagevar.calling import ELSEWHERE
from stagevar.errors import MissingFileError, OptionError, quoted
from stagevar.files import one_name
from stagevar.jobs.columns import (
    Found,
    count_lines,
    csv_rows,
    folder_rows,
    json_rows,
    parquet_file,
    parquet_rows,
    pyarrow,
    text_rows,
    texts,
)
from stagevar.request import Request


@dataclass(frozen=True, slots=True)
class Row:
    """One picture to draw: an id, and what of a request is plain data. None leaves a setting open.

    Attributes:
        id: the name of its files, unique within the job.
        prompt: the text; for class models the name or number of a class.
        seed: None takes one that follows from the job's seed and the id alone.
        accelerator: None leaves it to the job.
        negative_prompt, height, width, aspect_ratio, strict, guidance_scale, temperature, top_k, top_p, smooth,
            unconditional: as in ``Request``.
    """

    id: str
    prompt: str
    seed: int | None = None
    accelerator: str | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    aspect_ratio: float | str | None = None
    strict: bool | None = None
    guidance_scale: float | tuple[float, ...] | None = None
    temperature: float | tuple[float, ...] | None = None
    top_k: int | tuple[int, ...] | None = None
    top_p: float | tuple[float, ...] | None = None
    smooth: bool | None = None
    unconditional: bool | None = None

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in zip(SETTINGS, _settings(self), strict=True) if value is not None}

    def digest(self) -> bytes:
        """16 bytes that are equal for rows that say the same."""
        return hashlib.sha256(repr(self._given()).encode(errors="surrogatepass")).digest()[:16]

    def request(self, job_seed: int) -> Request:
        """The row as a request.

        Raises:
            PromptError, OptionError
        """
        settings = self._given()
        drawn = hashlib.sha256(f"{job_seed}/{settings.pop('id')}".encode()).digest()
        return Request(**{"seed": int.from_bytes(drawn[:4], "big"), **settings})


SETTINGS = tuple(f.name for f in fields(Row))
_settings = attrgetter(*SETTINGS)

KINDS = {f.name: str(f.type).split(" ")[0] for f in fields(Row)}
PER_SCALE = {f.name for f in fields(Row) if "tuple" in str(f.type)}

NOT_OF_ROWS = {
    **dict.fromkeys(("plan", "forced", "generator"), "only calls in Python take it"),
    **dict.fromkeys(("strength", "soft_edge", "expand", "upscale"), "a job begins with no picture; use stagevar edit"),
    "num_images_per_prompt": "give a row per picture",
}
"""Settings of other doors that say what is drawn, and why a row does not have them. Names that tables of captions use
for themselves, such as image, size or token, are not among them."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be drawn.

    Attributes:
        number: its line or position in the input, from 1.
        id: its id, "" if it has none that can be used.
        reason: why not.
    """

    number: int
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Numbered:
    """A row and its line or position in the input, from 1."""

    number: int
    row: Row


Kind = Literal["jsonl", "csv", "parquet", "text", "folder"]
KIND_OF: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
READERS: dict[Kind, Callable[[Path], Iterator[Found]]] = {
    "jsonl": json_rows,
    "csv": csv_rows,
    "parquet": parquet_rows,
    "text": text_rows,
    "folder": folder_rows,
}


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        path: a JSONL, CSV, Parquet or text file (a prompt per line), or a folder of text files, one prompt each.
        kind: which of them.
    """

    path: Path
    kind: Kind

    @classmethod
    def read(cls, path: Path) -> Source:
        """What a path holds, by its suffix.

        Raises:
            MissingFileError: there is no such file or folder, or it cannot be read.
            OptionError: a file of another kind, one without a row, or one that names a column twice.
            MissingExtraError: a Parquet file, and pyarrow is not installed.
        """
        path = path.expanduser()
        kind = "folder" if path.is_dir() else KIND_OF.get(path.suffix.lower())
        if kind is None:
            raise OptionError(f"{path} is no folder of text files, and no file that ends in {', '.join(KIND_OF)}")
        if kind == "parquet":
            pyarrow()
        source = cls(path, kind)
        if next(iter(source), None) is None:
            raise OptionError(f"{path} holds no row; write one per picture")
        return source

    def count(self) -> int:
        """Rows, those that turn out bad included; for CSV files the lines, which a quoted line end adds to."""
        if self.kind == "folder":
            return sum(1 for _ in texts(self.path))
        if self.kind == "parquet":
            return int(parquet_file(self.path).metadata.num_rows)
        return max(0, count_lines(self.path) - (self.kind == "csv"))

    def __iter__(self) -> Iterator[Numbered | Bad]:
        """All rows, in order. Blank lines are none.

        Raises:
            MissingFileError: the file is damaged, or cannot be read any further.
            OptionError: as in ``read``.
        """
        try:
            for number, found in enumerate(READERS[self.kind](self.path), 1):
                if isinstance(found, str):
                    yield Bad(number, "", found)
                elif found is not None:
                    yield read_row(number, _typed(found) if self.kind == "csv" else found)
        except OSError as error:
            raise MissingFileError(f"cannot read {self.path}: {error.strerror or error}") from None


def read_row(number: int, columns: Any) -> Numbered | Bad:
    """A row from plain data, whose values are not looked at yet. Null and NaN are no values. Columns that are no
    setting are ignored, but not ones that are a setting elsewhere, or look like one misspelt.

    Args:
        number: its line or position, from 1, which is its id too if it has none.
        columns: its values by name.
    """
    if not isinstance(columns, Mapping):
        return Bad(number, "", f"a row is an object of settings, not {quoted(columns)}")
    given = {name: value for name, value in columns.items() if value is not None and value == value}
    name = _text(given.get("id", f"{number:07d}"))
    if not isinstance(name, str) or not _names_files(name):
        return Bad(number, "", f"the id {quoted(name)} is no file name")
    for column in given.keys() - KINDS.keys():
        if reason := _misplaced(str(column)):
            return Bad(number, name, reason)
    values = {key: _plain(key, value) for key, value in given.items() if key in KINDS}
    if values.get("unconditional") is True:
        values.setdefault("prompt", "")
    if "prompt" not in values:
        return Bad(number, name, "the row has no prompt")
    return Numbered(number, Row(**values | {"id": name, "prompt": _text(values["prompt"])}))


def balanced(pictures: int, classes: int) -> Iterable[Numbered]:
    """Rows that draw every class of a class model equally often: picture i is of class ``i * classes // pictures``."""
    return (
        Numbered(i + 1, Row(f"{i:0{len(str(pictures - 1))}d}", str(i * classes // pictures))) for i in range(pictures)
    )


def windows(rows: Iterable[Numbered | Bad], size: int) -> Iterator[list[Numbered | Bad]]:
    """Rows in lists of ``size``."""
    rows = iter(rows)
    while window := list(islice(rows, size)):
        yield window


def _names_files(name: str) -> bool:
    """Whether an id can name files: no folder, no hidden file, no line end or other character that steers a terminal,
    no half of a surrogate pair."""
    steers = not name.isprintable() and any(category(each) in ("Cc", "Cs", "Zl", "Zp") for each in name)
    return not steers and one_name(name) and not name.startswith(".") and len(name.encode()) <= 200


@lru_cache(256)
def _misplaced(column: str) -> str:
    """Why a column that is no setting of a row cannot be ignored, or ""."""
    if column in NOT_OF_ROWS:
        return f"a row has no {column}: {NOT_OF_ROWS[column]}; leave the column out"
    if ELSEWHERE.get(column) in SETTINGS:
        return f"a row has no {column}; use {ELSEWHERE[column]}"
    close = get_close_matches(column, SETTINGS, 1, 0.7)
    return f"there is no setting {quoted(column)}; did you mean {close[0]}?" if close else ""


def _plain(name: str, value: Any) -> Any:
    """A value as ``Row`` has it: lists as tuples, and whole numbers also where tables with gaps store 7 as 7.0."""
    if isinstance(value, list):
        return tuple(_plain(name, each) for each in value)
    return int(value) if KINDS[name] == "int" and isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> Any:
    """The number of a class or a row as text, anything else as it is."""
    whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    return str(int(value)) if whole else value


def _typed(cells: Mapping[str, str]) -> dict[str, Any]:
    """The values of the cells of a CSV file; an empty one has none."""
    return {name: _value(name, text) for name, text in cells.items() if text != ""}


def _value(name: str, text: str) -> Any:
    """The value of a cell: true or false, a number, or one per scale separated by commas. What has another form stays
    text, which the request then refuses."""
    kind = KINDS.get(name, "str")
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.strip().lower()]
        if kind == "str":
            return text
        if name in PER_SCALE and "," in text:
            return [_number(kind, part) for part in text.split(",")]
        return _number(kind, text)
    except (KeyError, ValueError):
        return text


def _number(kind: str, text: str) -> int | float:
    return int(text) if kind == "int" and text.strip().lstrip("+-").isdecimal() else float(text)
