"""Code that the families with the vector-quantising tokenizer share: sizes, latent, codes, guidance and positions."""

from __future__ import annotations

import torch
from torch import Tensor

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Grid, Scale, Schedule
from stagevar.errors import SizeError
from stagevar.families.tokenizers.vq import VQTokenizer


def squares(*sides: int) -> Schedule:
    """Square grids of these sides."""
    return tuple((side, side) for side in sides)


LARGEST_SIDE = 1024
"""Largest side of a grid that a config may have: 16 times the largest side of a published model's grid."""

SCALES_256 = squares(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SCALES_512 = squares(1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
SCALES_1024 = squares(1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64)
"""The grids of published models. The number in a name is the side of the pictures in pixels."""


def rotary_table(grid: Grid, pairs: int, base: float, extent: float, device: torch.device) -> Tensor:
    """Cosine and sine at each position of a grid, (h * w, pairs, 2).

    The first half of the channel pairs rotates by the column, the second half by the row. Both coordinates run from 0
    to ``extent`` on every grid (STAR, Switti).
    """
    frequencies = 1.0 / base ** (torch.arange(0, 2 * pairs, 4, device=device) / (2 * pairs))
    axes = [torch.arange(side, device=device)[:, None] * (frequencies * (extent / max(side - 1, 1))) for side in grid]
    rows, columns = (axis.expand(*grid, -1) for axis in (axes[0][:, None], axes[1][None]))
    angles = torch.cat([columns, rows], -1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()], -1)


def check_schedules(schedules: tuple[Schedule, ...]) -> None:
    """Raise ValueError if there are no picture sizes, if two are the same, if they have different numbers of scales, or
    if a side of a grid is not between 1 and ``LARGEST_SIDE``."""
    if not schedules or not schedules[0]:
        raise ValueError("there are no picture sizes")
    if not all(1 <= side <= LARGEST_SIDE for schedule in schedules for grid in schedule for side in grid):
        raise ValueError(f"the sides of a grid are 1 to {LARGEST_SIDE}")
    if len({len(schedule) for schedule in schedules}) != 1:
        raise ValueError("the picture sizes must have equally many scales")
    if len({schedule[-1] for schedule in schedules}) != len(schedules):
        raise ValueError("two picture sizes are the same")


class VQModel(ScaleModel):
    """Base class of these families. A subclass sets ``tokenizer`` and ``schedules``; each schedule has the grids of one
    picture size, and the first schedule is the default."""

    mixes_codes = True
    tokenizer: VQTokenizer
    schedules: tuple[Schedule, ...]

    def __init__(self) -> None:
        super().__init__()
        self._rotary: dict[tuple[Grid, int, float, float, torch.device], Tensor] = {}

    @torch.inference_mode(False)  # training may reuse the tables, and autograd refuses inference tensors
    def rotary(self, grid: Grid, pairs: int, base: float, extent: float) -> Tensor:
        """The table that ``rotary_table`` computes; it is kept for later calls."""
        key = grid, pairs, base, extent, self.device
        if key not in self._rotary:
            self._rotary[key] = rotary_table(*key)
        return self._rotary[key]

    def sizes(self) -> list[Grid]:
        return [self.picture_size(schedule) for schedule in self.schedules]

    def schedule(self, height: int | None = None, width: int | None = None) -> Schedule:
        known = dict(zip(self.sizes(), self.schedules, strict=True))
        default = next(iter(known))
        size = default[0] if height is None else height, default[1] if width is None else width
        if size not in known:
            near = sorted(known, key=lambda other: abs(other[0] - size[0]) + abs(other[1] - size[1]))
            listed = ", ".join(f"{w}x{h}" for h, w in near)
            raise SizeError(
                f"model {self.name} draws no {size[1]}x{size[0]} pictures (width x height); it draws {listed}"
            )
        return known[size]

    def picture_size(self, schedule: Schedule) -> tuple[int, int]:
        stride = self.tokenizer.config.stride
        return stride * schedule[-1][0], stride * schedule[-1][1]

    def guidance_schedule(self, strength: float, schedule: Schedule) -> tuple[float, ...]:
        """The weight rises linearly from 1 (no guidance) at the first scale: ``1 + strength * k / (S - 1)``."""
        last = max(len(schedule) - 1, 1)
        return tuple(1 + strength * k / last for k in range(len(schedule)))

    def empty_latent(self, n: int, schedule: Schedule) -> Tensor:
        return torch.zeros(n, self.tokenizer.config.channels, *schedule[-1], device=self.device)

    def code_space(self, k: int) -> tuple[int, tuple[int, ...]]:
        return self.tokenizer.config.codes, ()

    @property
    def encodes(self) -> bool:
        return self.tokenizer.encoder is not None

    def encode(self, pictures: Tensor, schedule: Schedule) -> list[Tensor]:
        return self.tokenizer.encode(pictures, schedule)

    def add_codes(
        self,
        latent_nDHW: Tensor,
        codes: Tensor,
        schedule: Schedule,
        k: int,
        index_nr: Tensor | None = None,
        gain_nr: Tensor | None = None,
    ) -> Tensor:
        return latent_nDHW + self.tokenizer.upsampled(codes, Scale(schedule, k), index_nr, gain_nr)

    def decode(self, latent_nDHW: Tensor) -> Tensor:
        return self.tokenizer.decode(latent_nDHW)
