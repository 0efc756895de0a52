"""The rows of a job: read one by one from a file or folder, so that millions of them need no memory."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from stagevar.errors import MissingExtraError, MissingFileError, OptionError, quoted
from stagevar.files import one_name
from stagevar.request import Request

LONGEST_LINE = 2**20
"""Characters of a line; a longer one is no row."""
UNREADABLE = f"the line is no UTF-8 or longer than {LONGEST_LINE} characters"


@dataclass(frozen=True, slots=True)
class Row:
    """One picture to draw.

    Attributes:
        id: the name of its files, unique within the job.
        prompt: the text; for class models the name or number of a class.
        seed: None takes one that follows from the job's seed and the id alone.
        accelerator: None leaves it to the job.
        negative_prompt, height, width, aspect_ratio, guidance_scale, temperature, top_k, top_p: as in ``Request``.
    """

    id: str
    prompt: str
    seed: int | None = None
    accelerator: str | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    aspect_ratio: float | str | None = None
    guidance_scale: float | tuple[float, ...] | None = None
    temperature: float | tuple[float, ...] | None = None
    top_k: int | tuple[int, ...] | None = None
    top_p: float | tuple[float, ...] | None = None

    def digest(self) -> bytes:
        """16 bytes that are equal for rows that say the same."""
        return hashlib.sha256(repr(_settings(self)).encode(errors="surrogatepass")).digest()[:16]

    def request(self, job_seed: int) -> Request:
        """The row as a request.

        Raises:
            PromptError, OptionError
        """
        settings = {name: getattr(self, name) for name in SETTINGS if name != "id"}
        if self.seed is None:
            drawn = hashlib.sha256(f"{job_seed}/{self.id}".encode()).digest()
            settings["seed"] = int.from_bytes(drawn[:4], "big")
        return Request(**settings)


SETTINGS = tuple(f.name for f in fields(Row))
_settings = attrgetter(*SETTINGS)


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
KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
NUMBERS = {f.name: kind for f in fields(Row) for kind in ("int", "float") if str(f.type).split(" ")[0] == kind} | {
    "aspect_ratio": "float"
}
"""Columns of CSV files that hold numbers."""


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
            OptionError: a file of another kind.
            MissingExtraError: a Parquet file, and pyarrow is not installed.
        """
        path = path.expanduser()
        if path.is_dir():
            return cls(path, "folder")
        kind = KINDS.get(path.suffix.lower())
        if kind is None:
            raise OptionError(f"{path} is no folder of text files, and no file that ends in {', '.join(KINDS)}")
        try:
            path.open("rb").close()
        except OSError as error:
            raise MissingFileError(f"cannot read {path}: {error.strerror}") from None
        if kind == "parquet":
            pyarrow()
        return cls(path, kind)

    def count(self) -> int:
        """Rows, those that turn out bad included; for CSV files the lines, which a quoted line end adds to."""
        if self.kind == "folder":
            return sum(1 for _ in self._texts())
        if self.kind == "parquet":
            return int(self._table().metadata.num_rows)
        with self.path.open("rb") as opened:
            lines = sum(block.count(b"\n") for block in iter(lambda: opened.read(2**20), b""))
            if opened.tell():
                opened.seek(-1, 2)
                lines += opened.read(1) != b"\n"
        return max(0, lines - (self.kind == "csv"))

    def __iter__(self) -> Iterator[Numbered | Bad]:
        """All rows, in order. Blank lines are none."""
        for number, found in enumerate(self._found(), 1):
            if isinstance(found, str):
                yield Bad(number, "", found)
            elif found is not None:
                yield read_row(number, found)

    def _found(self) -> Iterator[Mapping[Any, Any] | str | None]:
        """Per row its columns; text says why there are none, and None that the line is blank."""
        if self.kind == "folder":
            for path in self._texts():
                try:
                    yield {"id": path.stem, "prompt": path.read_text(encoding="utf-8").strip()}
                except (OSError, ValueError) as error:
                    yield f"{path.name} cannot be read: {error}"
        elif self.kind == "parquet":
            for batch in self._table().iter_batches(1024):
                yield from batch.to_pylist()
        elif self.kind == "csv":
            yield from self._csv()
        else:
            yield from map(_json if self.kind == "jsonl" else _text, self._lines())

    def _texts(self) -> Iterator[Path]:
        return (path for path in sorted(self.path.iterdir()) if path.suffix.lower() == ".txt" and path.is_file())

    def _lines(self) -> Iterator[str | None]:
        """The lines of the file; None for one that is too long or no UTF-8."""
        with self.path.open("rb") as opened:
            while raw := opened.readline(LONGEST_LINE):
                if not raw.endswith(b"\n") and len(raw) == LONGEST_LINE:
                    while raw and not raw.endswith(b"\n"):
                        raw = opened.readline(LONGEST_LINE)
                    yield None
                    continue
                try:
                    yield raw.decode("utf-8-sig").strip()
                except UnicodeDecodeError:
                    yield None

    def _csv(self) -> Iterator[Mapping[Any, Any] | str]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as opened:
                for columns in csv.DictReader(opened, strict=True):
                    if None in columns or None in columns.values():
                        yield "the row has other columns than the first line names"
                    else:
                        yield {name: _number(name, text) for name, text in columns.items() if text != ""}
        except (csv.Error, UnicodeDecodeError) as error:
            yield f"no CSV from here on: {error}"

    def _table(self) -> Any:
        """The opened Parquet file."""
        try:
            return pyarrow()[1].ParquetFile(self.path)
        except Exception as error:
            raise MissingFileError(f"cannot read {self.path}: {error}") from None


def read_row(number: int, columns: Any) -> Numbered | Bad:
    """A row from plain data, whose values are not looked at yet. Columns that are no setting are ignored, but not ones
    that look like a setting misspelt.

    Args:
        number: its line or position, from 1, which is its id too if it has none.
        columns: its values by name.
    """
    if not isinstance(columns, Mapping):
        return Bad(number, "", f"a row is an object of settings, not {quoted(columns)}")
    name = str(columns.get("id", f"{number:07d}"))
    if not one_name(name) or name.startswith(".") or len(name.encode()) > 200:
        return Bad(number, "", f"the id {quoted(name)} is no file name")
    for column in columns:
        if column not in SETTINGS and (close := get_close_matches(str(column), SETTINGS, 1, 0.7)):
            return Bad(number, name, f"there is no setting {quoted(column)}; did you mean {close[0]}?")
    values = {key: value for key, value in columns.items() if value is not None and key in SETTINGS}
    if "prompt" not in values:
        return Bad(number, name, "the row has no prompt")
    if type(values["prompt"]) is int:
        values["prompt"] = str(values["prompt"])
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Numbered(number, Row(**values | {"id": name}))


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


def _json(line: str | None) -> Mapping[Any, Any] | str | None:
    if line is None:
        return UNREADABLE
    if not line:
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    return found if isinstance(found, dict) else f"a row is an object of settings, not {quoted(found)}"


def _text(line: str | None) -> Mapping[Any, Any] | str | None:
    if line is None:
        return UNREADABLE
    return {"prompt": line} if line else None


def _number(name: str, text: str) -> Any:
    """The value of a CSV column; a text that is no number stays text, which the request then refuses."""
    try:
        return {"int": int, "float": float}[NUMBERS[name]](text) if name in NUMBERS else text
    except ValueError:
        return text


def pyarrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "batch") from None
    return arrow, parquet
