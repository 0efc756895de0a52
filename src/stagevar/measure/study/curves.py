"""The results of a study as plain data: curves over the scales, with the values of every prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from stagevar.engine.grids.grid import Schedule

if TYPE_CHECKING:
    from PIL.Image import Image

CurveKind = Literal["semantic", "structural", "spectral", "guidance", "change", "cost", "rank"]
KINDS: tuple[CurveKind, ...] = get_args(CurveKind)

FORMAT = "stagevar study 1"

LOW, HIGH = 0.1, 0.9
"""Quantiles over prompts that stand for the spread of a curve."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity at every scale.

    Attributes:
        kind: what it is about.
        unit: unit of the values; empty for shares and ratios.
        values: per prompt, one number per scale.
    """

    kind: CurveKind
    unit: str
    values: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """Over prompts, per scale."""
        return tuple(math.fsum(column) / len(column) for column in self._columns)

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation over prompts, per scale."""
        return tuple(
            math.sqrt(math.fsum((value - mean) ** 2 for value in column) / len(column))
            for column, mean in zip(self._columns, self.mean, strict=True)
        )

    @property
    def low(self) -> tuple[float, ...]:
        """The 10% quantile over prompts, per scale."""
        return tuple(quantile(column, LOW) for column in self._columns)

    @property
    def high(self) -> tuple[float, ...]:
        """The 90% quantile over prompts, per scale."""
        return tuple(quantile(column, HIGH) for column in self._columns)

    @property
    def binary(self) -> bool:
        """Whether the values are verdicts, 0 or 1, so that quantiles say nothing."""
        return all(value in (0.0, 1.0) for row in self.values for value in row)

    @property
    def _columns(self) -> list[tuple[float, ...]]:
        return list(zip(*self.values, strict=True))

    def to_dict(self, *, values: bool = True) -> dict[str, Any]:
        """Plain data; the prompts' own values, to six digits, only if wanted."""
        rows = {"mean": self.mean, "std": self.std, "low": self.low, "high": self.high}
        answer: dict[str, Any] = {"kind": self.kind, "unit": self.unit, **{k: _rounded(v) for k, v in rows.items()}}
        if values:
            answer["values"] = [_rounded(row) for row in self.values]
        return answer


def quantile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the two nearest values."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


@dataclass(frozen=True, slots=True)
class Study:
    """The systematic analysis of one model.

    Attributes:
        model, family: name and family of the model.
        device, dtype, versions: what it ran on.
        schedule: grids of the scales.
        size: height and width of the pictures in pixels.
        prompts: the texts; picture i had seed ``seed + i``.
        seed: of the first picture.
        guidance: weight per scale.
        batch_size: pictures per pass, which the times depend on.
        curves: curves over all prompts, by name.
        groups: per group of blocks, figures of its input by name (see ``spectrum``): prompt branch, first prompts only.
        samples: the intermediate pictures of the first prompts, per scale; not part of the JSON.
    """

    model: str
    family: str
    device: str
    dtype: str
    versions: Mapping[str, str]
    schedule: Schedule
    size: tuple[int, int]
    prompts: tuple[str, ...]
    seed: int
    guidance: tuple[float, ...]
    batch_size: int
    curves: Mapping[str, Curve]
    groups: tuple[Mapping[str, Curve], ...]
    samples: tuple[tuple[Image, ...], ...] = field(default=(), repr=False, compare=False)

    @property
    def grids(self) -> tuple[str, ...]:
        """The scales as ``16x16``."""
        return tuple(f"{h}x{w}" for h, w in self.schedule)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(h * w for h, w in self.schedule)

    @property
    def rank_prompts(self) -> int:
        """How many prompts the figures of ``groups`` are of."""
        return len(next(iter(self.groups[0].values())).values)

    def of(self, kind: CurveKind) -> dict[str, Curve]:
        """The curves of one kind by name."""
        return {name: curve for name, curve in self.curves.items() if curve.kind == kind}

    def to_dict(self, *, values: bool = True) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "format": FORMAT,
            "model": self.model,
            "family": self.family,
            "device": self.device,
            "dtype": self.dtype,
            "versions": dict(self.versions),
            "seed": self.seed,
            "guidance": list(self.guidance),
            "batch_size": self.batch_size,
            "schedule": [list(grid) for grid in self.schedule],
            "size": list(self.size),
            "tokens": list(self.tokens),
            "prompts": list(self.prompts) if values else len(self.prompts),
            "rank_prompts": self.rank_prompts,
            "curves": {name: curve.to_dict(values=values) for name, curve in self.curves.items()},
            "groups": [
                {name: curve.to_dict(values=values) for name, curve in figures.items()} for figures in self.groups
            ],
        }
