"""Traces as JSON lines: one line for the call, then one for each pass."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stagevar.errors import MissingFileError, OptionError
from stagevar.files import replacing
from stagevar.loop.trace import ScaleRecord, Trace


def write(path: Path, traces: Sequence[Trace]) -> None:
    """Write the traces of one or several calls; the file appears whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{json.dumps(line)}\n" for trace in traces for line in _lines(trace)))


def _lines(trace: Trace) -> Iterator[dict[str, Any]]:
    fields = asdict(trace)
    records = fields.pop("records")
    yield {"kind": "call", **fields}
    for record in records:
        yield {"kind": "pass", **record}


def read(path: Path) -> list[Trace]:
    """The traces of a file, equal to those that were written.

    Raises:
        MissingFileError: there is no such file.
        OptionError: a line that is no record; names it.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise MissingFileError(f"cannot read trace {path}: {error.strerror}") from None
    traces: list[Trace] = []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            if fields.pop("kind") == "call":
                traces.append(Trace(**fields | {"seeds": tuple(fields["seeds"])}))
            else:
                lists = {name: tuple(fields[name]) for name in ("grid", "images")}
                traces[-1].records.append(ScaleRecord(**fields | lists))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise OptionError(f"{path}, line {number}: not a record of a trace") from None
    return traces
