"""From a study to a profile: where a model's stages end and how low the rank of its hidden states is.

A stage ends at the first scale from which on each of the rule's curves stays at ``reach`` of its value at the last
scale; since that holds at the last scale at the latest, every stage has an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

from stagevar.engine.grids.grid import Scale
from stagevar.measure.study.curves import HIGH, LOW, Study, quantile
from stagevar.measure.study.spectrum import ENERGIES, rank_name
from stagevar.profile import Boundary, Ranks, Rule, StageProfile

SEMANTIC_CURVES = ("objects", "clip", "dino", "layout")
"""The curve that ends the semantic stage: the first of these that a study has."""


def rules(study: Study, semantic: float = 0.95, structure: float = 0.9) -> tuple[Rule, Rule]:
    """The rules for the ends of the semantic and the structure stage: what the picture shows is there, and its
    contours are."""
    curve = next(name for name in SEMANTIC_CURVES if name in study.curves)
    return Rule((curve,), semantic), Rule(("contours",), structure)


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
    share, *own = (Scale(study.schedule, end).share for end in ends)
    mean = fmean(own)
    return Boundary(rule, ends[0], share, mean, pstdev(own, mean), quantile(own, LOW), quantile(own, HIGH))


def _rank_table(study: Study, energy: float) -> tuple[Ranks, ...]:
    curves = [figures[rank_name(energy)] for figures in study.groups]
    means, stds = [curve.mean for curve in curves], [curve.std for curve in curves]
    return tuple(
        Ranks(Scale(study.schedule, k).share, tuple(mean[k] for mean in means), tuple(std[k] for std in stds))
        for k in range(len(study.schedule))
    )
