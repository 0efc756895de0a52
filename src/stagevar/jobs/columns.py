"""What the rows of a file say, before it is looked at: lines of JSON, CSV or text, a Parquet file, a folder of texts.

Every reader yields per row its columns by name; text says why there are none, and None that the line is blank. A row
that cannot be read harms no other.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from stagevar.errors import MissingExtraError, MissingFileError, OptionError, first_line, quoted, some

LONGEST_LINE = 2**20
"""Characters of a line, and of a CSV field; a longer one is no row."""
UNREADABLE = f"the line is no UTF-8 or longer than {LONGEST_LINE} characters"

Found = Mapping[Any, Any] | str | None


def folder_rows(folder: Path) -> Iterator[Found]:
    """A prompt per text file, whose name is the id."""
    for path in texts(folder):
        try:
            yield {"id": path.stem, "prompt": path.read_text(encoding="utf-8").strip()}
        except (OSError, ValueError) as error:
            yield f"{path.name} cannot be read: {error}"


def texts(folder: Path) -> Iterator[Path]:
    """The text files of a folder, sorted by name."""
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".txt" and path.is_file())


def text_rows(path: Path) -> Iterator[Found]:
    """A prompt per line."""
    for line in _lines(path):
        yield UNREADABLE if line is None else {"prompt": line} if line else None


def json_rows(path: Path) -> Iterator[Found]:
    """A JSON object per line."""
    return map(_json, _lines(path))


def _json(line: str | None) -> Found:
    if line is None:
        return UNREADABLE
    if not line:
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    return found if isinstance(found, dict) else f"a row is an object of settings, not {quoted(found)}"


def _lines(path: Path) -> Iterator[str | None]:
    """The lines of a file; None for one that is too long or no UTF-8."""
    with path.open("rb") as opened:
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


def count_lines(path: Path) -> int:
    with path.open("rb") as opened:
        lines = sum(block.count(b"\n") for block in iter(lambda: opened.read(2**20), b""))
        if opened.tell():
            opened.seek(-1, 2)
            lines += opened.read(1) != b"\n"
    return lines


def csv_rows(path: Path) -> Iterator[Found]:
    """A row per record, with the names of the first one; all cells are text.

    Raises:
        OptionError: the first line is no list of names, or names a column twice.
    """
    csv.field_size_limit(LONGEST_LINE)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        lines = _CsvLines(opened)
        records = csv.reader(lines, strict=True)
        try:
            names = next(records, [])
        except csv.Error as error:
            raise OptionError(f"the first line of {path} names no columns: {error}") from None
        _require_once(path, names)
        while True:
            lines.taken.clear()
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                lines.again.extendleft(reversed(lines.taken[1:]))
                yield f"no CSV: {error}"
                continue
            if cells and len(cells) != len(names):
                yield "the row has other columns than the first line names"
            elif cells:
                yield dict(zip(names, cells, strict=True)) if _utf8("".join(cells)) else UNREADABLE


class _CsvLines:
    """The lines of a CSV file. Those of the record at hand are kept: if its quotes do not close, the lines behind its
    first one are read again as rows of their own.

    Attributes:
        taken: lines of the record at hand; None for one that is too long.
        again: lines to be read before further ones of the file.
    """

    def __init__(self, opened: IO[str]) -> None:
        self._opened = opened
        self.taken: list[str | None] = []
        self.again: deque[str | None] = deque()

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else self._read()
        if line == "":
            raise StopIteration
        self.taken.append(line)
        if line is None:
            raise csv.Error(f"a line longer than {LONGEST_LINE} characters")
        return line

    def _read(self) -> str | None:
        line = self._opened.readline(LONGEST_LINE)
        if len(line) < LONGEST_LINE or line.endswith(("\n", "\r")):
            return line
        while line and not line.endswith(("\n", "\r")):
            line = self._opened.readline(LONGEST_LINE)
        return None


def parquet_rows(path: Path) -> Iterator[Found]:
    """The rows of a Parquet file.

    Raises:
        MissingFileError: it is damaged.
        OptionError: it has several columns of one name.
    """
    table = parquet_file(path)
    _require_once(path, table.schema_arrow.names)
    batches = table.iter_batches(1024)
    while True:
        try:
            rows = next(batches).to_pylist()
        except StopIteration:
            return
        except Exception as error:
            raise MissingFileError(f"cannot read {path}: {first_line(error)}") from None
        yield from rows


def parquet_file(path: Path) -> Any:
    """An opened Parquet file.

    Raises:
        MissingFileError: it is none.
    """
    try:
        return pyarrow()[1].ParquetFile(path)
    except MissingExtraError:
        raise
    except Exception as error:
        raise MissingFileError(f"cannot read {path}: {first_line(error)}") from None


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


def _require_once(path: Path, names: list[str]) -> None:
    """Raise unless the columns of a file have names, each its own.

    Raises:
        OptionError
    """
    if twice := {name for name in names if names.count(name) > 1}:
        raise OptionError(f"{path} has several columns named {some(map(quoted, sorted(twice)))}; leave one")
    if not _utf8("".join(names)):
        raise OptionError(f"the first line of {path} is no UTF-8; save it as UTF-8")


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
