"""Stages and ranks of one model as measured, and the dial of our accelerator: what accelerators are calibrated with.

The rule of a boundary is part of the profile. All positions are shares of the final grid's side, so that a profile
means the same at every picture size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from stagevar.engine.grids.grid import Schedule, check_schedule, scales
from stagevar.engine.plan.plan import Stage
from stagevar.errors import OptionError, quoted
from stagevar.files import replacing
from stagevar.saved import read_saved

FORMAT = "stagevar profile 2"


@dataclass(frozen=True, slots=True)
class Rule:
    """How a stage's end is found: the first scale from which on every curve is at least ``reach`` times its last value.

    Raises:
        OptionError: a reach outside (0, 1], or no curve.
    """

    curves: tuple[str, ...]
    reach: float

    def __post_init__(self) -> None:
        if not 0 < self.reach <= 1:
            raise OptionError(f"the share of the final value that ends a stage must lie in (0, 1], not {self.reach}")
        if not self.curves:
            raise OptionError("a stage's end needs at least one curve to be read from")

    def scale(self, curves: Mapping[str, Sequence[float]]) -> int:
        """Index of the last scale of the stage."""
        return max(_settled(curves[name], self.reach) for name in self.curves)


def _settled(curve: Sequence[float], reach: float) -> int:
    """First index from which on a curve stays at ``reach`` of its last value."""
    outside = [k for k, value in enumerate(curve) if value < reach * curve[-1]]
    return outside[-1] + 1 if outside else 0


@dataclass(frozen=True, slots=True)
class Boundary:
    """The end of a stage.

    Attributes:
        rule: how it was found.
        scale: index of the last scale of the stage in the schedule that was studied, from the mean curves.
        share: side of that scale over the final grid's.
        mean, std, low, high: mean, standard deviation, 10% and 90% quantile of that share over prompts, each prompt by
            its own curves.
    """

    rule: Rule
    scale: int
    share: float
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ranks:
    """Effective rank at one scale: singular vectors that hold a share of the centred energy, over the number of rows.

    Attributes:
        share: side of the scale over the final grid's.
        mean, std: mean and standard deviation over prompts, per group of blocks.
    """

    share: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DialPoint:
    """What one setting of ``stagevar(quality=...)`` costs and how close it comes to the plain run.

    Attributes:
        quality: the setting, in [0, 1).
        ssim, low: SSIM to the plain run, mean and 10% quantile over pictures.
        flop_ratio: operations of the plain run over those of this setting.
    """

    quality: float
    ssim: float
    low: float
    flop_ratio: float


@dataclass(frozen=True, slots=True, repr=False)
class StageProfile:
    """Stages and ranks of one model.

    Attributes:
        model, family: name and family of the model that was studied.
        versions: of stagevar and torch.
        schedule: grids of the scales that were studied.
        prompts: number of prompts that the boundaries were measured on.
        rank_prompts: number of prompts that the ranks were measured on.
        seed: seed of the first picture.
        guidance: weight per scale.
        semantic, structure: ends of these stages; all later scales are of the fidelity stage.
        ranks: per share of energy, one entry per scale.
        dial: points of our accelerator's front, fastest first; empty if they were not measured.
    """

    model: str
    family: str
    versions: Mapping[str, str]
    schedule: Schedule
    prompts: int
    rank_prompts: int
    seed: int
    guidance: tuple[float, ...]
    semantic: Boundary
    structure: Boundary
    ranks: Mapping[float, tuple[Ranks, ...]]
    dial: tuple[DialPoint, ...] = ()

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        for energy, table in self.ranks.items():
            sizes = {len(row.mean) for row in table} | {len(row.std) for row in table}
            if len(sizes) != 1 or sizes == {0}:
                raise OptionError(f"the ranks for {energy} energy are not of the same groups at every scale")

    def require(self, model: str) -> None:
        """Refuse to be used by another model.

        Raises:
            OptionError: names both, and the command that measures.
        """
        if self.model != model:
            raise OptionError(
                f"the stage profile is of model {quoted(self.model)}, not of {quoted(model)}; measure one with "
                f"`stagevar calibrate --model {model}`"
            )

    def __repr__(self) -> str:
        stages = ", ".join(f"{k} {stage}" for k, stage in enumerate(self.stages()))
        energies = ", ".join(f"{energy:.0%}" for energy in self.ranks)
        dial = f", dial of {len(self.dial)} points" if self.dial else ""
        return (
            f"StageProfile({self.model}, {self.prompts} prompts: {stages}; ranks for {energies or 'no'} energy{dial})"
        )

    def stages(self, schedule: Schedule | None = None) -> tuple[Stage, ...]:
        """The stage of each scale of any schedule of the model (None: the studied one)."""
        schedule = schedule or self.schedule
        shares = [at.share for at in scales(schedule)]
        return tuple(
            "semantic" if share <= self.semantic.share else "structure" if share <= self.structure.share else "fidelity"
            for share in shares
        )

    def rank_ratios(self, energy: float, share: float) -> tuple[float, ...]:
        """Rank over rows per group at a scale of this share of the final side, linear between measured scales.

        Raises:
            OptionError: no ranks were measured for this energy.
        """
        if energy not in self.ranks:
            raise OptionError(f"the profile has ranks for energies {', '.join(map(str, self.ranks))}, not for {energy}")
        table = self.ranks[energy]
        above = next((k for k, row in enumerate(table) if row.share >= share), len(table) - 1)
        below = max(above - 1, 0)
        width = table[above].share - table[below].share
        part = min(1.0, max(0.0, (share - table[below].share) / width)) if width > 0 else 1.0
        pairs = zip(table[below].mean, table[above].mean, strict=True)
        return tuple(low + part * (high - low) for low, high in pairs)

    def quality(self, ssim: float) -> float:
        """The lowest quality whose mean SSIM reaches ``ssim``, linear between measured points; 1 above the last.

        Raises:
            OptionError: the dial was not measured, or the SSIM is none.
        """
        if not self.dial:
            raise OptionError("the profile has no dial; write one with `stagevar calibrate --ssim`")
        if not 0 < ssim <= 1:
            raise OptionError(f"an SSIM lies in (0, 1], not {ssim}")
        if self.dial[0].ssim >= ssim:
            return self.dial[0].quality
        for worse, better in pairwise(self.dial):
            if better.ssim >= ssim:
                part = (ssim - worse.ssim) / (better.ssim - worse.ssim)
                return worse.quality + part * (better.quality - worse.quality)
        return 1.0

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def load(cls, path: Path) -> StageProfile:
        """Read a profile that ``save`` wrote.

        Raises:
            MissingFileError: there is no such file.
            OptionError: it is no profile, or one of another version.
        """
        return read_saved(path, "stage profile", FORMAT, "stagevar calibrate", cls)
