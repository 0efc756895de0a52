"""Where a model's stages end and how low the rank of its hidden states is: what accelerators are calibrated with.

The rule of a boundary is part of the profile. A stage ends at the first scale from which on each of the rule's curves
stays at ``reach`` of its value at the last scale; since that holds at the last scale at the latest, every stage has an
end. All positions are shares of the final grid's side, so that a profile means the same at every picture size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from stagevar.accelerators.base import share_of_final
from stagevar.errors import MissingFileError, OptionError
from stagevar.files import replacing
from stagevar.loop.plan import Schedule, Stage
from stagevar.measure.curves import HIGH, LOW, Study, quantile
from stagevar.measure.spectrum import ENERGIES, rank_name

FORMAT = "stagevar profile 1"

SEMANTIC_CURVES = ("objects", "clip", "dino", "layout")
"""The curve that ends the semantic stage: the first of these that a study has."""


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


def rules(study: Study, semantic: float = 0.95, structure: float = 0.9) -> tuple[Rule, Rule]:
    """The rules for the ends of the semantic and the structure stage: what the picture shows is there, and its
    contours are."""
    curve = next(name for name in SEMANTIC_CURVES if name in study.curves)
    return Rule((curve,), semantic), Rule(("contours",), structure)


@dataclass(frozen=True, slots=True)
class Boundary:
    """The end of a stage.

    Attributes:
        rule: how it was found.
        scale: index of the last scale of the stage in the schedule that was studied, from the mean curves.
        share: side of that scale over the final grid's.
        mean, std, low, high: of the same share over prompts, each by its own curves (10% and 90% quantile).
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
    """Rank for a share of the centred energy at one scale, over the number of rows, per group of blocks: mean and
    standard deviation over prompts. ``share`` is the scale's side over the final grid's."""

    share: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StageProfile:
    """Stages and ranks of one model.

    Attributes:
        model, family, versions: what was studied.
        schedule: grids of the scales.
        prompts, rank_prompts: how many the boundaries and the ranks are of.
        seed, guidance: of the study.
        semantic, structure: the ends of these stages; what comes after is fidelity.
        ranks: per share of energy, one entry per scale.
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

    def stages(self, schedule: Schedule | None = None) -> tuple[Stage, ...]:
        """The stage of each scale of any schedule of the model (None: the studied one)."""
        schedule = schedule or self.schedule
        shares = [share_of_final(schedule, k) for k in range(len(schedule))]
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

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n")

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
        try:
            data = json.loads(path.read_text())
        except OSError as error:
            raise MissingFileError(f"cannot read the profile {path}: {error.strerror or error}") from None
        except ValueError:
            raise OptionError(
                f"{path} is no stage profile: it is not JSON; write one with `stagevar calibrate`"
            ) from None
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise OptionError(
                f"{path} is no stage profile of this version ({FORMAT!r}, not {found!r}); "
                "write one with `stagevar calibrate`"
            )
        try:
            return cls(
                model=str(data["model"]),
                family=str(data["family"]),
                versions=dict(data["versions"]),
                schedule=tuple((int(h), int(w)) for h, w in data["schedule"]),
                prompts=int(data["prompts"]),
                rank_prompts=int(data["rank_prompts"]),
                seed=int(data["seed"]),
                guidance=tuple(map(float, data["guidance"])),
                semantic=_boundary(data["semantic"]),
                structure=_boundary(data["structure"]),
                ranks={float(energy): tuple(map(_ranks, table)) for energy, table in data["ranks"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OptionError(f"{path} is a damaged stage profile: {type(error).__name__} {error}") from None


def _boundary(data: Mapping[str, Any]) -> Boundary:
    rule = Rule(tuple(map(str, data["rule"]["curves"])), float(data["rule"]["reach"]))
    shares = {name: float(data[name]) for name in ("share", "mean", "std", "low", "high")}
    return Boundary(rule, int(data["scale"]), **shares)


def _ranks(data: Mapping[str, Any]) -> Ranks:
    return Ranks(float(data["share"]), tuple(map(float, data["mean"])), tuple(map(float, data["std"])))


def profile(study: Study, semantic: float = 0.95, structure: float = 0.9) -> StageProfile:
    """The profile of a study.

    Args:
        semantic, structure: share of a curve's final value that ends the stage, see ``rules``.

    Raises:
        OptionError: a share outside (0, 1].
    """
    first_rule, second_rule = rules(study, semantic, structure)
    first = _ends(study, first_rule)
    second = [max(pair) for pair in zip(first, _ends(study, second_rule), strict=True)]
    return StageProfile(
        model=study.model,
        family=study.family,
        versions=study.versions,
        schedule=study.schedule,
        prompts=len(study.prompts),
        rank_prompts=study.rank_prompts,
        seed=study.seed,
        guidance=study.guidance,
        semantic=_summary(study, first_rule, first),
        structure=_summary(study, second_rule, second),
        ranks={energy: _rank_table(study, energy) for energy in ENERGIES},
    )


def _ends(study: Study, rule: Rule) -> list[int]:
    """Last scale of a stage by the mean curves, and then by each prompt's own."""
    by_prompt = [{name: study.curves[name].values[i] for name in rule.curves} for i in range(len(study.prompts))]
    return [rule.scale({name: study.curves[name].mean for name in rule.curves}), *map(rule.scale, by_prompt)]


def _summary(study: Study, rule: Rule, ends: Sequence[int]) -> Boundary:
    share, *own = (share_of_final(study.schedule, end) for end in ends)
    mean = fmean(own)
    return Boundary(rule, ends[0], share, mean, pstdev(own, mean), quantile(own, LOW), quantile(own, HIGH))


def _rank_table(study: Study, energy: float) -> tuple[Ranks, ...]:
    curves = [figures[rank_name(energy)] for figures in study.groups]
    means, stds = [curve.mean for curve in curves], [curve.std for curve in curves]
    return tuple(
        Ranks(share_of_final(study.schedule, k), tuple(mean[k] for mean in means), tuple(std[k] for std in stds))
        for k in range(len(study.schedule))
    )
