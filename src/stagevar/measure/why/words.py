"""A plan in words: per stretch of scales, what differs from the plain run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import cast

from stagevar.engine.grids.grid import Schedule
from stagevar.engine.plan.parts import EVERY, PartRows
from stagevar.engine.plan.plan import Plan, ScalePlan, Stage
from stagevar.engine.plan.tokens import Tokens
from stagevar.measure.predict.explain import brief

BRANCHES = {"cond": "the prompt's branch runs alone", "null": "the branch without the prompt runs alone"}
LABELS = ("stage",)
"""Fields that say nothing about what runs."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive scales that run alike.

    Attributes:
        first, last: their indices.
        grids: such as ``24x24 to 32x32``.
        stage: what the accelerator took them for, "" if it does not say.
        changes: what differs from the plain run, a clause each.
    """

    first: int
    last: int
    grids: str
    stage: str
    changes: tuple[str, ...]

    def __str__(self) -> str:
        scales = f"Scale {self.first}" if self.first == self.last else f"Scales {self.first} to {self.last}"
        return f"{scales} ({self.grids}): {'; '.join(self.changes) or 'as in the plain run'}."


def stretches(plan: Plan, plain: Plan, schedule: Schedule) -> Iterator[Stretch]:
    """The plan from first to last scale, scales that run alike taken together."""
    said = [tuple(changes(own, usual)) for own, usual in zip(plan, plain, strict=True)]
    named = stages(plan)
    first = 0
    for k in range(1, len(plan) + 1):
        if k == len(plan) or (said[k], named[k]) != (said[first], named[first]):
            ends = dict.fromkeys(f"{h}x{w}" for h, w in (schedule[first], schedule[k - 1]))
            yield Stretch(first, k - 1, " to ".join(ends), named[first] or "", said[first])
            first = k


def stages(plan: Plan) -> list[Stage | None]:
    """The stage of every scale; those before the first semantic one are semantic too, since stages never return."""
    found = [scale.stage for scale in plan]
    first = next((k for k, stage in enumerate(found) if stage is not None), 0)
    return [found[first]] * first + found[first:] if found[first] == "semantic" else found


def changes(own: ScalePlan, plain: ScalePlan) -> Iterator[str]:
    """One clause for every field in which a scale differs from the plain run."""
    if own.run == "skip":
        yield "not run, no codes are added"
        return
    for f in fields(ScalePlan):
        value, usual = getattr(own, f.name), getattr(plain, f.name)
        if f.name == "parts":
            value = tuple(rule for rule in value if rule.prune)
        if value != usual and f.name not in LABELS:
            yield _clause(f.name, value)


def _clause(name: str, value: object) -> str:
    """What one field of a scale's plan means."""
    if name == "run":
        return "the network does not run, its last hidden states are used again"
    if name == "branch" and value in BRANCHES:
        return BRANCHES[str(value)]
    if name == "tokens":
        return _tokens(cast(Tokens, value))
    if name == "parts" and isinstance(value, tuple):
        return ", ".join(map(_part, value))
    if name == "attend":
        return "self-attention sees some of the keys"
    if name == "cache":
        return "its keys and values are not kept" if value == "none" else "some keys and values are dropped"
    if name == "group":
        return "it shares the pass of the scale before it"
    if name == "watch" and isinstance(value, tuple):
        return f"it is watched ({', '.join(type(each).__name__ for each in value)})"
    if name == "remember":
        return "maps of earlier scales are kept"
    if name == "store":
        return f"keys and values are stored in {value}"
    return f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"


def _tokens(tokens: Tokens) -> str:
    keep, score = getattr(tokens, "keep", None), getattr(tokens, "score", None)
    what = f"fewer rows run ({brief(tokens)})" if keep is None else f"{keep:.0%} of the rows run"
    which = f", those of highest {score}" if score else ""
    others = ", the others add no codes" if tokens.final else ""
    return what + which + others


def _part(rule: PartRows) -> str:
    roles = ", ".join(role.replace("_", "-") for role in rule.roles)
    blocks = (
        "all blocks" if rule.layers == EVERY else f"blocks {rule.layers[0]:.0%} to {rule.layers[1]:.0%} of the depth"
    )
    whole = rule.prune == 1
    what = "does not run" if whole else f"process {1 - rule.prune:.0%} of the rows"
    filled = "" if rule.fill == "zero" else f", {'rows' if whole else 'the others'} get what it added before"
    return f"{roles} of {blocks} {what}{filled}"
