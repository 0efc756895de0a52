"""What runs at each scale, as plain comparable data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from stagevar.errors import OptionError

Grid = tuple[int, int]
"""Height and width of one scale, in tokens."""

Schedule = tuple[Grid, ...]
"""The grids of one picture size, first to final."""

Run = Literal["full", "skip"]
Branch = Literal["both", "cond", "null"]


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """One scale of one image. The defaults mean the plain run.

    Attributes:
        run: ``full``, or ``skip`` (nothing is computed and the latent stays as it is).
        branch: prompt and empty prompt (``both``), or one of them. Once single, always single.
        guidance: weight w in ``w * cond + (1 - w) * null``; read only where both branches run.
        guidance_layer: None guides the logits; n guides the hidden states behind block n (negative
            counts from the end), after which both branches carry the guided state (Infinity's
            ``cfg_insertion_layer``).
        temperature: divisor of the logits; 0 takes the most likely code.
        top_k: number of most likely codes that may be drawn; 0 means all.
        top_p: share of probability mass that may be drawn; 1 means all.
    """

    run: Run = "full"
    branch: Branch = "both"
    guidance: float = 1.0
    guidance_layer: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.run not in ("full", "skip"):
            raise OptionError(f"run must be 'full' or 'skip', not {self.run!r}")
        if self.branch not in ("both", "cond", "null"):
            raise OptionError(f"branch must be 'both', 'cond' or 'null', not {self.branch!r}")
        if not self.temperature >= 0:
            raise OptionError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise OptionError(f"top_k must be 0 (all codes) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p must lie in (0, 1], not {self.top_p}")

    @property
    def shape(self) -> tuple[Run, Branch, int | None]:
        """What decides which rows are computed; images of one shape can share a pass."""
        return self.run, self.branch, self.guidance_layer


@dataclass(frozen=True, slots=True)
class Plan:
    """One ``ScalePlan`` per scale of the schedule."""

    scales: tuple[ScalePlan, ...]

    def __post_init__(self) -> None:
        if all(scale.run == "skip" for scale in self.scales):
            raise OptionError("the plan runs no scale at all; let at least one run")
        single: Branch | None = None
        for k, scale in enumerate(self.scales):
            if single is not None and scale.branch != single:
                raise OptionError(
                    f"scale {k} wants branch {scale.branch!r} after an earlier scale ran {single!r} alone; "
                    "a branch that was dropped cannot come back"
                )
            if scale.branch != "both":
                single = scale.branch

    @classmethod
    def uniform(cls, length: int, **fields: Any) -> Plan:
        """The same plan at every scale; a list or tuple as value gives one entry per scale."""
        scales = []
        for name, value in fields.items():
            if isinstance(value, (list, tuple)) and len(value) != length:
                raise OptionError(f"{name} has {len(value)} entries but the schedule has {length} scales")
        for k in range(length):
            here = {name: v[k] if isinstance(v, (list, tuple)) else v for name, v in fields.items()}
            scales.append(ScalePlan(**here))
        return cls(tuple(scales))

    def with_scale(self, k: int, **fields: Any) -> Plan:
        """A copy whose scale ``k`` (negative counts from the end) has other fields."""
        scales = list(self.scales)
        scales[k] = replace(scales[k], **fields)
        return Plan(tuple(scales))

    @property
    def executed(self) -> tuple[int, ...]:
        """Indices of the scales that run."""
        return tuple(k for k, scale in enumerate(self.scales) if scale.run != "skip")

    def __len__(self) -> int:
        return len(self.scales)

    def __getitem__(self, k: int) -> ScalePlan:
        return self.scales[k]

    def __iter__(self) -> Iterator[ScalePlan]:
        return iter(self.scales)


def table(plan: Plan, schedule: Sequence[Grid]) -> list[dict[str, Any]]:
    """One printable row per scale."""
    return [
        {
            "scale": k,
            "grid": f"{h}x{w}",
            "run": scale.run,
            "branch": scale.branch,
            "guidance": scale.guidance,
            "temperature": scale.temperature,
            "top_k": scale.top_k,
            "top_p": scale.top_p,
        }
        for k, (scale, (h, w)) in enumerate(zip(plan, schedule, strict=True))
    ]
