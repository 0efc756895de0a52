"""The record of what really ran."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stagevar.engine.grids.grid import Grid
from stagevar.engine.grids.rows import Branch
from stagevar.engine.plan.plan import Run
from stagevar.errors import MissingFileError, OptionError
from stagevar.files import replacing


@dataclass(frozen=True, slots=True)
class ScaleRecord:
    """One scale of one pass by the images that share its plan.

    Attributes:
        scale: index of the scale.
        grid: its height and width in tokens.
        images: indices within the call of the images that took part.
        run: what the plan asked for.
        branch: the branches that ran.
        rows: token rows that went through the network, over all images and branches.
        cached: positions per row in the cache before the pass, a mean over layers.
        milliseconds: wall-clock time since the record before, device work, regrouping and revised plans included. Of
            scales that share a pass the first has the time of the network.
        group: the scales that shared the pass, empty if it ran alone.
    """

    scale: int
    grid: Grid
    images: tuple[int, ...]
    run: Run
    branch: Branch
    rows: int
    cached: int
    milliseconds: float
    group: tuple[int, ...] = ()

    @classmethod
    def of(cls, fields: dict[str, Any]) -> ScaleRecord:
        """The record of plain data, as JSON has it."""
        return cls(**fields | {name: tuple(fields[name]) for name in ("grid", "images", "group")})


@dataclass(slots=True, repr=False)
class Trace:
    """All passes of one call, with what is needed to repeat it.

    Attributes:
        model: its name.
        machine: what it ran on, as ``stagevar.machine.machine`` says it.
        origin: where the model came from: source and revision, as ``Pipeline.from_pretrained`` took them.
        pictures: per image the settings that repeat it: prompt, seed, size, guidance, accelerator and so on.
        records: the passes, in order.
        text_milliseconds, decode_milliseconds: time outside of the passes.
    """

    model: str
    machine: dict[str, Any]
    origin: dict[str, Any]
    pictures: list[dict[str, Any]]
    records: list[ScaleRecord] = field(default_factory=list)
    text_milliseconds: float = 0.0
    decode_milliseconds: float = 0.0

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each image."""
        return tuple(picture["seed"] for picture in self.pictures)

    def executed(self, image: int) -> tuple[int, ...]:
        """Scales that ran for one image."""
        return tuple(r.scale for r in self.records if image in r.images and r.run != "skip")

    @property
    def network_milliseconds(self) -> float:
        """Time of all passes, text and decoding not included."""
        return sum(record.milliseconds for record in self.records)

    def by_scale(self) -> list[dict[str, Any]]:
        """One row per scale: grid, tokens, rows processed, images and milliseconds, summed over passes."""
        rows: dict[int, dict[str, Any]] = {}
        for record in self.records:
            row = rows.setdefault(
                record.scale,
                {
                    "scale": record.scale,
                    "grid": f"{record.grid[0]}x{record.grid[1]}",
                    "tokens": record.grid[0] * record.grid[1],
                    "rows": 0,
                    "run": 0,
                    "milliseconds": 0.0,
                },
            )
            row["rows"] += record.rows
            row["run"] += len(record.images) if record.run != "skip" else 0
            row["milliseconds"] += record.milliseconds
        return [rows[k] for k in sorted(rows)]

    def __repr__(self) -> str:
        place = f"{self.machine.get('device')}, {self.machine.get('dtype')}"
        scales = len({record.scale for record in self.records if record.run != "skip"})
        passes = sum(record.scale == (record.group or (record.scale,))[0] for record in self.records)
        times = (self.text_milliseconds, self.network_milliseconds, self.decode_milliseconds)
        text, network, decode = (f"{spent:.0f} ms" for spent in times)
        return (
            f"Trace({len(self.pictures)} of {self.model} on {place}: {scales} scales in {passes} passes, "
            f"text {text}, network {network}, decoder {decode})"
        )

    def _repr_html_(self) -> str:
        """A row per scale, for notebooks."""
        rows = self.by_scale()
        head = "".join(f"<th>{name}</th>" for name in (rows[0] if rows else ()))
        cells = ("".join(f"<td>{_shown(value)}</td>" for value in row.values()) for row in rows)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<p>{html.escape(repr(self))}</p><table><tr>{head}</tr>{body}</table>"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def _shown(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def write(path: Path, traces: Sequence[Trace]) -> None:
    """Write the traces of one or several calls; the file appears whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(
            "".join(f"{json.dumps(line)}\n" for trace in traces for line in _lines(trace)), encoding="utf-8"
        )


def is_trace(path: Path) -> bool:
    """Whether a file begins as ``write`` begins one."""
    start = json.dumps({"kind": "call"})[:-1].encode()
    with path.open("rb") as file:
        return file.read(len(start)) == start


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
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MissingFileError(f"cannot read trace {path}: {error.strerror}") from None
    traces: list[Trace] = []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            if fields.pop("kind") == "call":
                traces.append(Trace(**fields))
            else:
                traces[-1].records.append(ScaleRecord.of(fields))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise OptionError(f"{path}, line {number}: not a record of a trace") from None
    return traces
