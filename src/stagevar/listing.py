"""What is known of an accelerator from its class alone: the row of every list and catalogue."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from stagevar.accelerators.base import AXES, Accelerator, Claim
from stagevar.registry import known, origins


@dataclass(frozen=True, slots=True)
class Listed:
    """One accelerator class.

    Attributes:
        name: what users write.
        about: first paragraph of its docstring.
        origin: module of this package or entry point that it is from.
        fields: settings with their defaults as text, ``...`` where there is none.
        identity: settings with the bits of the plain run as text; None if there are none.
        hooks: ``plan`` if it decides before the picture is drawn, ``revise`` if it decides after each scale.
        owns: axes of the plan that it decides, in the order of ``ScalePlan``.
        combines_with: names of the others that decide something, but none of these axes.
        claims, citation, source: see ``Accelerator``.
    """

    name: str
    about: str
    origin: str
    fields: dict[str, str]
    identity: str | None
    hooks: tuple[str, ...]
    owns: tuple[str, ...]
    combines_with: tuple[str, ...]
    claims: tuple[Claim, ...]
    citation: str
    source: str

    @property
    def online(self) -> bool:
        """Whether it decides per picture, while that is drawn."""
        return "revise" in self.hooks

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "online": self.online}


def listed(cls: type[Accelerator], among: Mapping[str, type[Accelerator]] | None = None) -> Listed:
    """What a class says of itself.

    Args:
        cls: of one accelerator.
        among: others by name that it may be combined with; None for those that are known.
    """
    others = known() if among is None else among
    identity = None if cls.identity is None else str(cls(**cls.identity))
    return Listed(
        name=cls.name,
        about=" ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()),
        origin=origins().get(cls.name, cls.__module__) if known().get(cls.name) is cls else cls.__module__,
        fields={f.name: "..." if f.default is MISSING else repr(f.default) for f in fields(cls)},
        identity=identity,
        hooks=tuple(
            hook for hook, has in (("plan", cls.plan is not Accelerator.plan), ("revise", cls.online is True)) if has
        ),
        owns=tuple(axis for axis in AXES if axis in cls.owns),
        combines_with=partners(cls.owns, others),
        claims=cls.claims,
        citation=cls.citation,
        source=cls.source,
    )


def shipped() -> list[Listed]:
    """The accelerators of this package that change the plain run; of their partners, those of this package."""
    package = __name__.partition(".")[0]
    own = {name: cls for name, cls in known().items() if cls.__module__.partition(".")[0] == package}
    return [listed(cls, own) for cls in own.values() if cls.owns]


def partners(owns: frozenset[str], among: Mapping[str, type[Accelerator]]) -> tuple[str, ...]:
    """Names of the accelerators that decide something, but none of the given axes."""
    return tuple(name for name, cls in among.items() if cls.owns and not cls.owns & owns)
