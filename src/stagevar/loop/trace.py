"""The record of what really ran."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from stagevar.loop.plan import Branch, Grid, Run


@dataclass(frozen=True, slots=True)
class ScaleRecord:
    """One pass over one scale by the images that share its plan.

    Attributes:
        scale: index of the scale.
        grid: its height and width in tokens.
        images: indices within the call of the images that took part.
        run: what the plan asked for.
        branch: the branches that ran.
        rows: token rows that went through the network, over all images and branches.
        cached: positions per row that self-attention saw before this scale.
        milliseconds: wall-clock time of the pass, device work included.
    """

    scale: int
    grid: Grid
    images: tuple[int, ...]
    run: Run
    branch: Branch
    rows: int
    cached: int
    milliseconds: float


@dataclass(slots=True)
class Trace:
    """All passes of one call, with what is needed to repeat it."""

    model: str
    device: str
    dtype: str
    seeds: tuple[int, ...]
    versions: dict[str, str]
    records: list[ScaleRecord] = field(default_factory=list)
    text_milliseconds: float = 0.0
    decode_milliseconds: float = 0.0

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

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)
