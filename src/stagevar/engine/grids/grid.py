"""The grids of one picture size, and one scale among them."""

from __future__ import annotations

from dataclasses import dataclass

from stagevar.errors import OptionError, quoted

Grid = tuple[int, int]
"""Height and width of one scale, in tokens."""

Schedule = tuple[Grid, ...]
"""The grids of one picture size, first to final."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Scale k of a schedule."""

    schedule: Schedule
    k: int

    @property
    def grid(self) -> Grid:
        """Height and width in tokens."""
        return self.schedule[self.k]

    @property
    def tokens(self) -> int:
        """How many tokens the grid has."""
        return self.grid[0] * self.grid[1]

    @property
    def final(self) -> Grid:
        """The last grid of the schedule."""
        return self.schedule[-1]

    @property
    def share(self) -> float:
        """Side of the scale relative to the final grid: the square root of the share of its area."""
        return float((self.tokens / (self.final[0] * self.final[1])) ** 0.5)

    @property
    def last(self) -> bool:
        """Whether this is the final scale."""
        return self.k == len(self.schedule) - 1

    @property
    def before(self) -> tuple[Scale, ...]:
        """The scales before this one."""
        return scales(self.schedule)[: self.k]


def check_schedule(schedule: Schedule) -> None:
    """Raise unless there are scales, of a token or more.

    Raises:
        OptionError
    """
    if not schedule or min(map(min, schedule)) < 1:
        raise OptionError(f"a schedule has scales of at least one token, unlike {quoted(schedule)}")


def scales(schedule: Schedule) -> tuple[Scale, ...]:
    """All scales of a schedule, first to final."""
    return tuple(Scale(schedule, k) for k in range(len(schedule)))
