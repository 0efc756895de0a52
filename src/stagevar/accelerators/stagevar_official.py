"""StageVAR as published, in two readings.

Idea: early scales establish semantics, middle ones structure, late ones only refine. In the late ones the prompt no
longer matters and the inputs of the blocks have low rank along the tokens, so the null branch alone runs on r << M
rows: a random projection Y = Q^T X with Q ~ N(0, 1/r) before each group of blocks ("random projection"), and behind it
the same group's output at the scale before, area-resampled, with rows drawn in proportion to their squared norm
overwritten by Y ("representative token restoration").

``stagevar_released`` is what the official repository runs for Infinity:
the last two scales are not run at all, and projection is active at one scale, the last that does run.
``stagevar_paper`` is what the text describes: all scales run, null branch and projection in every fidelity scale.

Deviations, all named: draws are seeded per image (official: global generator); positions count from the end of the
schedule and not by a width of 48 or 64, so every aspect ratio and size works; batches above 1 work; the processed rows
of the last scale are not appended to the cache, since nothing reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from stagevar.accelerators.base import FILE, Accelerator, Claim, Facts, last_executed, single_branch
from stagevar.accelerators.sketch import Rotary, Sketch
from stagevar.engine.grids.grid import Scale, Schedule, scales
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError
from stagevar.profile import StageProfile
from stagevar.saved import read_once

RANKS_96 = (
    (0.01677667, 0.13648282, 0.21039204, 0.25028198, 0.25588367, 0.19787904, 0.15700158, 0.19090033),
    (0.01340312, 0.11730737, 0.18940611, 0.22199535, 0.23464177, 0.18278230, 0.13390926, 0.16311155),
    (0.00821293, 0.05440418, 0.08323540, 0.06649411, 0.05667185, 0.02967688, 0.03826088, 0.05566318),
)
"""Rank over rows per chunk of Infinity's 8, at the third last, second last and last scale, for 96% of the energy."""

MEAN_RANKS = {
    0.999: (0.603, 0.548, 0.500),
    0.99: (0.353, 0.309, 0.330),
    0.98: (0.266, 0.235, 0.125),
    0.97: (0.214, 0.189, 0.079),
    0.96: (0.177, 0.157, 0.049),
    0.92: (0.131, 0.110, 0.107),
    0.90: (0.110, 0.073, 0.068),
    0.80: (0.055, 0.046, 0.046),
    0.70: (0.032, 0.027, 0.028),
}
"""Mean over chunks of the official tables. Energies other than .96 take its profile over chunks, scaled to this."""

CITATION = "StageVAR, since renamed FasterVAR, ICML 2026, arXiv 2512.16483"

CLAIMS = (
    Claim("Infinity-2B, 1024x1024", 3.4, "GenEval .73 to .72, DPG 83.12 to 82.86"),
    Claim("Infinity-8B, 1024x1024", 2.7, "GenEval .79 to .78, DPG 86.60 to 86.05"),
    Claim("STAR-1.7B, 1024x1024", 1.74, "GenEval .51 to .51"),
)
"""The tables do not say which of the two readings they measure."""

FIDELITY_SHARE = 0.6
"""A scale is of the fidelity stage if its side is at least this share of the final one: 40 of 64 and above."""


def ranks(alpha: float, from_end: int, groups: int) -> tuple[float, ...]:
    """Share of the rows per group of blocks, ``from_end`` 1 for the last scale; earlier ones take the third last's.

    A model with another number of groups takes the nearest chunk by relative depth.

    Raises:
        OptionError: no table for this energy.
    """
    if alpha not in MEAN_RANKS:
        raise OptionError(f"there are rank tables for alpha {', '.join(map(str, MEAN_RANKS))}, not for {alpha}")
    row = 3 - min(from_end, 3)
    scale = MEAN_RANKS[alpha][row] / MEAN_RANKS[0.96][row]
    profile = RANKS_96[row]
    return tuple(min(1.0, profile[(2 * g + 1) * len(profile) // (2 * groups)] * scale) for g in range(groups))


def sketched(
    plan: Plan,
    scales: Sequence[int],
    schedule: Schedule,
    facts: Facts,
    *,
    alpha: float,
    profile: StageProfile | None,
    rotary: Rotary,
) -> Plan:
    """The plan with projected rows at some scales; ranks of the profile, or else of the official table.

    Raises:
        OptionError: no ranks for this energy, or a profile of a model with other groups of blocks.
    """
    for k in scales:
        if profile is None:
            ratios = ranks(alpha, len(plan) - k, facts.groups)
        else:
            ratios = profile.rank_ratios(alpha, Scale(schedule, k).share)
        if len(ratios) != facts.groups:
            raise OptionError(f"the profile has ranks of {len(ratios)} groups of blocks, the model has {facts.groups}")
        plan = plan.replace([k], tokens=Sketch(ratios, rotary=rotary))
    return plan


@dataclass(frozen=True)
class StageVARReleased(Accelerator):
    """StageVAR as its authors' repository runs Infinity.

    What it does for STAR and HART is ``skip=0, single=2, rotary='drawn'``: all scales run, the null branch alone in the
    last two, projection at the last. Its rank tables for them have one entry per layer and are not reproduced here;
    give a ``profile``.

    Attributes:
        alpha: energy that the ranks were calibrated for.
        skip: scales at the end that are not run.
        single: scales at the end, skipped ones included, with one branch.
        sketch: scales that run on projected rows, counted from the last that runs.
        branch: the branch that stays; official is the null one (guidance 0), ``cond`` costs the same.
        rotary: positions of the projected rows: the scale's ``first`` ones, or those of the rows ``drawn``.
        profile: file that ``stagevar calibrate`` wrote, whose ranks take the place of the official table.
    """

    name: ClassVar[str] = "stagevar_released"
    owns: ClassVar[frozenset[str]] = frozenset({"run", "branch", "tokens"})
    citation: ClassVar[str] = CITATION
    source: ClassVar[str] = "sen-mao/FasterVAR"
    claims: ClassVar[tuple[Claim, ...]] = CLAIMS
    identity: ClassVar[Mapping[str, object] | None] = {"skip": 0, "single": 0, "sketch": 0}
    alpha: float = 0.96
    skip: int = 2
    single: int = 3
    sketch: int = 1
    branch: Literal["cond", "null"] = "null"
    rotary: Rotary = "first"
    profile: str = field(default="", metadata=FILE)

    def __post_init__(self) -> None:
        for name, choices in (("branch", ("cond", "null")), ("rotary", ("first", "drawn"))):
            if getattr(self, name) not in choices:
                raise OptionError(f"stagevar_released: {name} must be one of {', '.join(choices)}")

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        first = max(0, len(plan) - self.single)
        profile = _profile(self.profile, facts)
        if self.single:
            plan = single_branch(plan, first, self.branch).replace(range(first, len(plan)), stage="fidelity")
        plan = plan.replace(last_executed(plan, self.skip, self), run="skip")
        scales = last_executed(plan, self.sketch, self)
        return sketched(plan, scales, schedule, facts, alpha=self.alpha, profile=profile, rotary=self.rotary)


def _profile(file: str, facts: Facts) -> StageProfile | None:
    """The profile that a user names, if it is of this model; None if none is named.

    Raises:
        MissingFileError, OptionError
    """
    if not file:
        return None
    found = read_once(StageProfile.load, Path(file))
    if facts.model:
        found.require(facts.model)
    return found


@dataclass(frozen=True)
class StageVARPaper(Accelerator):
    """StageVAR as its paper describes it: all scales run; null branch and projection in all fidelity scales.

    Attributes:
        alpha: energy that the ranks were calibrated for.
        profile: file that ``stagevar calibrate`` wrote, whose ranks and end of the structure stage are taken; else the
            official table, and fidelity from a side of 40 of 64.
    """

    name: ClassVar[str] = "stagevar_paper"
    owns: ClassVar[frozenset[str]] = frozenset({"branch", "tokens"})
    citation: ClassVar[str] = CITATION
    source: ClassVar[str] = "notes on the paper"
    claims: ClassVar[tuple[Claim, ...]] = CLAIMS
    alpha: float = 0.96
    profile: str = field(default="", metadata=FILE)

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        profile = _profile(self.profile, facts)
        if profile is None:
            late = [at.share >= FIDELITY_SHARE for at in scales(schedule)]
        else:
            late = [stage == "fidelity" for stage in profile.stages(schedule)]
        fidelity = [k for k in range(1, len(plan)) if late[k]]
        if not fidelity:
            return plan
        plan = single_branch(plan, fidelity[0], "null").replace(fidelity, stage="fidelity")
        return sketched(plan, fidelity, schedule, facts, alpha=self.alpha, profile=profile, rotary="first")
