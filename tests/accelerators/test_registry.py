"""Accelerators by name: what cannot be read is said at once, broken plug-ins are left out, sums fit or are refused."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

import stagevar
from stagevar import registry
from stagevar.accelerators.base import Accelerator
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import Signals
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.registry import broken, known, parse, parse_foreign
from stagevar.request import Request


@pytest.mark.parametrize(
    "text",
    [
        "drop_last({[]: 1})",
        "drop_last({1, []})",
        f"drop_last({'9' * 5000})",
        f"drop_last({'9' * 1500})",
        "drop_last(1e999)",
        "stagevar(quality=1e999)",
        "+".join(["drop_last(1)"] * 300),
        "drop_last(" * 5000,
        "x" * 3_000_000,
        "drop_last('" + "y" * 1_000_000 + "')",
        "drop_last(" + "-" * 1900 + "1)",
        "drop_last(True)",
        "drop_last(1)\0",
        b"none",
        7,
    ],
    ids=range(15),
)
def test_texts_of_every_kind_end_in_a_short_error_at_once(text: Any) -> None:
    began = time.perf_counter()
    with pytest.raises(OptionError) as caught:
        parse(text)
    assert time.perf_counter() - began < 0.25 and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text", ["stagevar_paper(profile='p.json')", "drop_last(1)+stagevar_paper(0.9, '/etc/passwd')"]
)
def test_a_setting_that_names_a_file_cannot_come_over_a_network(text: str) -> None:
    with pytest.raises(OptionError, match="stagevar_paper: profile names a file"):
        parse_foreign(text)


@pytest.mark.parametrize("text", [*known(), "drop_last(1)+stagevar_paper(0.9)", "stagevar(quality=0.3)"])
def test_all_other_settings_come_over_a_network_as_they_do_elsewhere(text: str) -> None:
    assert parse_foreign(text) == parse(text)


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(OptionError, match="did you mean stagevar"):
        parse("stagvar")


def test_two_that_decide_one_axis_are_refused_in_either_order() -> None:
    """Every pair either combines in both orders or in none, and it combines if and only if no axis is decided twice."""
    for one, other in itertools.combinations(known().values(), 2):
        for first, second in ((one(), other()), (other(), one())):
            if one.owns & other.owns:
                with pytest.raises(OptionError, match=f"{first.name}.*{second.name}.*cannot be combined"):
                    first + second
            else:
                assert (first + second).online == (first.online or second.online)


@pytest.mark.parametrize(
    "text",
    ["drop_last(1)+reuse_last(1)", "stagevar+guidance_off(1)", "stagevar_released+drop_last(1)", "stagevar+stagevar"],
)
def test_sums_that_contradict_themselves_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="cannot be combined"):
        parse(text)


@dataclass(frozen=True)
class Nameless(Accelerator):
    pass


@dataclass(frozen=True)
class Inherited(type(parse("drop_last"))):  # type: ignore[misc]
    """Its name is that of the class that it is made of."""


@dataclass(frozen=True)
class Late(Accelerator):
    name: ClassVar[str] = "late"


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Entry points of other packages."""
    entries: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    registry._found.cache_clear()
    yield entries
    registry._found.cache_clear()


def test_broken_plug_ins_are_named_and_left_out(plugged: list[EntryPoint]) -> None:
    here = "tests.accelerators.test_registry"
    for name, value in {
        "gone": "no_such_package:Thing",
        "odd": "json:dumps",
        "nameless": f"{here}:Nameless",
        "inherited": f"{here}:Inherited",
        "late": f"{here}:Late",
    }.items():
        plugged.append(EntryPoint(name, value, registry.GROUP))
    plugged.append(EntryPoint("empty", "", registry.GROUP))
    assert "late" in known() and parse("drop_last(1)").name == "drop_last"
    reasons = " ".join(f"{where}: {why}" for where, why in broken().items())
    assert (
        len(broken()) == 5
        and "empty" in broken()
        and "no_such_package" in reasons
        and reasons.count("no name of its own") == 2
    )
    assert Pipeline(tiny("scenes"))("a star", seed=1).images


def test_a_broken_file_never_breaks_a_plain_run(plugged: list[EntryPoint], monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.import_module

    def failing(name: str) -> Any:
        if name.endswith(".sketch"):
            raise SyntaxError("invalid syntax")
        return load(name)

    monkeypatch.setattr(registry, "import_module", failing)
    assert "drop_last" in known() and list(broken()) == ["stagevar.accelerators.sketch"]


# --- instances, defaults, and what accelerators answer ----------------------------------------------------------------


@dataclass(frozen=True)
class Answers(Accelerator):
    """Gives back whatever it is told to."""

    name: ClassVar[str] = "answers"
    online: ClassVar[bool] = True
    planned: Any = None
    revised: Any = None

    def plan(self, plan: Plan, schedule: Schedule, facts: Any) -> Any:
        return plan if self.planned is None else self.planned

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Any:
        if isinstance(self.revised, int):
            return plan.replace([self.revised], temperature=0.5)
        return plan if self.revised is None else self.revised


def test_an_instance_serves_wherever_a_name_does() -> None:
    assert stagevar.Accelerator is Accelerator
    pipe = Pipeline(tiny("scenes"), accelerator=parse("drop_last(1)"))
    assert pipe("a star", seed=1).trace.executed(0) == (0, 1, 2, 3)
    assert pipe("a star", seed=1, accelerator="none").trace.executed(0) == (0, 1, 2, 3, 4)
    assert pipe("a star", seed=1, accelerator=parse("drop_last(2)")).trace.executed(0) == (0, 1, 2)
    assert pipe.prepare(Request("a star", accelerator=parse("reuse_last"))).plan[4].run == "reuse"


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"planned": "fast"}, "answers.*str where"),
        ({"planned": Plan.uniform(3)}, "answers.*3 scales"),
        ({"revised": [1]}, "answers.*list where"),
        ({"revised": Plan.uniform(4)}, "answers.*4 scales"),
        ({"revised": 9}, "answers.*after scale 0.*no scale 9"),
    ],
)
def test_a_wrong_answer_is_said_before_anything_is_drawn(wrong: dict[str, Any], word: str) -> None:
    pipe, asked = Pipeline(tiny("scenes")), []
    with pytest.raises(OptionError, match=word):
        list(pipe.stream("a star", seed=1, accelerator=Answers(**wrong), cancelled=lambda: bool(asked.append(1))))
    assert not asked


def test_a_revised_past_is_refused_with_the_accelerator_s_name() -> None:
    with pytest.raises(OptionError, match=r"answers.*has run"):
        Pipeline(tiny("scenes"))("a star", seed=1, accelerator=Answers(revised=0))


def test_a_sum_whose_revised_plans_cannot_run_is_found_before_drawing() -> None:
    @dataclass(frozen=True)
    class Reuses(Accelerator):
        name: ClassVar[str] = "reuses"

        def plan(self, plan: Plan, schedule: Schedule, facts: Any) -> Plan:
            return plan.replace([-1], run="reuse")

    with pytest.raises(OptionError, match=r"stagevar.*after scale.*stayed reduced"):
        Pipeline(tiny("scenes")).prepare(Request("a star", accelerator=parse("stagevar(quality=0.1)") + Reuses()))


@dataclass(frozen=True)
class Fails(Accelerator):
    """Code of somebody else that has a fault."""

    name: ClassVar[str] = "fails"
    online: ClassVar[bool] = True
    late: bool = False
    leaves: bool = False

    def plan(self, plan: Plan, schedule: Any, facts: Any) -> Plan:
        if self.leaves:
            raise SystemExit(0)
        return plan if self.late else {}["plan"]

    def revise(self, plan: Plan, at: Any, signals: Any) -> Plan:
        raise ZeroDivisionError("division by zero")


@dataclass(frozen=True)
class OddlyOwning(Accelerator):
    name: ClassVar[str] = "oddly"
    owns: ClassVar[Any] = "run"


@pytest.mark.parametrize(
    ("accelerator", "word"),
    [
        (Fails(), "fails failed: KeyError"),
        (Fails(leaves=True), r"fails\(leaves=True\) failed: SystemExit"),
        (Fails(late=True), r"fails\(late=True\), after scale 0 failed: ZeroDivision"),
    ],
)
def test_a_fault_of_an_accelerator_is_told_with_its_name(accelerator: Accelerator, word: str) -> None:
    with pytest.raises(OptionError, match=word):
        Pipeline(tiny("scenes"))("a star", accelerator=accelerator)


def test_what_an_accelerator_owns_are_axes_of_the_plan(plugged: list[EntryPoint]) -> None:
    plugged.append(EntryPoint("oddly", "tests.accelerators.test_registry:OddlyOwning", registry.GROUP))
    assert "oddly" not in known() and "frozenset of run, branch" in " ".join(broken().values())


def test_a_field_given_twice_is_refused() -> None:
    for text in ("drop_last(n=1, n=2)", "drop_last(1, n=2)"):
        with pytest.raises(OptionError, match="drop_last"):
            parse(text)
