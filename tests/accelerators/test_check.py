"""The contract matrix: what holds is told, what does not is a named cell, and what was never tried does not hold."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from stagevar.accelerators.base import Accelerator, Facts, single_branch
from stagevar.cli import run
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.signals import Signals
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import OptionError
from stagevar.families.catalogue import FAMILIES
from stagevar.measure.check.check import Report, check
from stagevar.measure.check.promises import PROMISES
from stagevar.registry import known, of_file, parse

FEW = {name: known()[name] for name in ("none", "drop_last")}
"""What the accelerators of these tests are summed with."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the ledger, which takes longer than all others."""
    others = {name: promise for name, promise in PROMISES.items() if name != "ledger"}
    monkeypatch.setattr("stagevar.measure.check.check.PROMISES", others)


def states(report: Report, family: str = "var") -> dict[str, str]:
    return {cell.promise: cell.state for cell in report.cells if cell.family == family}


def test_a_good_accelerator_holds_everywhere() -> None:
    done: list[int] = []
    report = check(parse("guidance_off(2)"), among=FEW, families=["var"], progress=done.append)
    assert report.ok and not report.faults and report.acts == ("var",)
    assert states(report) == dict.fromkeys(PROMISES, "holds")
    assert done == list(range(1, len(PROMISES) + 1))


@pytest.mark.usefixtures("quick")
def test_the_plain_run_holds_although_it_changes_nothing() -> None:
    report = check(parse("drop_last(0)"), among={}, families=["var"])
    assert report.ok and not report.acts and states(report)["sums"] == "no such"


@pytest.mark.usefixtures("quick")
def test_what_changes_no_picture_was_not_tried() -> None:
    report = check(parse("sparvar"), among={}, families=["var"])
    assert not report.ok and "give settings that act" in report.faults[0]


@pytest.mark.usefixtures("quick")
def test_a_family_that_an_accelerator_refuses_is_no_fault_but_all_of_them_are() -> None:
    report = check(parse("scalekv"), among={}, families=["switti"])
    assert set(states(report, "switti").values()) == {"refused"} and "caches none" in report.cells[0].reason
    assert report.faults == ["no family takes it"]
    assert check(parse("scalekv"), among={}, families=["switti", "var"]).ok


@dataclass(frozen=True)
class Faulty(Accelerator):
    """Does what its field says, wrongly."""

    name: ClassVar[str] = "faulty"
    owns: ClassVar[frozenset[str]] = frozenset({"branch", "tokens"})
    online: ClassVar[bool] = True
    identity: ClassVar[Mapping[str, object] | None] = {"fault": "late"}
    fault: str = "plan"

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        if self.fault == "plan":
            raise KeyError("grid 48")
        if self.fault == "nothing":
            return None  # type: ignore[return-value]
        if self.fault == "axis":
            return plan.replace([len(plan) - 1], run="skip", temperature=0.5)
        return plan.replace([len(plan) - 1], tokens=Unstable(0.5)) if self.fault == "rows" else plan

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        if self.fault == "revise" and 0 < signals.confidence < 1:
            raise ValueError("odd picture")
        return single_branch(plan, len(plan) - 2, "cond") if self.fault == "late" and at.k == 1 else plan

    def __str__(self) -> str:
        if self.fault == "text":
            raise RuntimeError("no words")
        return "faulty" if self.fault == "name" else super().__str__()


@dataclass(frozen=True, slots=True)
class Unstable(Select):
    """Its rows depend on the batch."""

    def scores(self, x_RMC: Any, context: TokenContext) -> Any:
        return super(Unstable, self).scores(x_RMC, context).roll(len(x_RMC), 1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("fault", "promise", "reason"),
    [
        ("plan", "text, sizes, owns, batch, identity, operations, sums", "failed: KeyError: 'grid 48'"),
        ("nothing", "text, sizes, owns, batch, identity, operations, sums", "gave a NoneType"),
        ("revise", "sizes", "ValueError: odd picture"),
        ("late", "identity", "other bits than the plain run"),
        ("text", "text", "RuntimeError: no words"),
        ("name", "text", "is read back as faulty"),
        ("rows", "batch", "differ by"),
        ("axis", "owns", "it decides run, temperature, which it does not own"),
    ],
)
def test_a_fault_is_a_named_cell(fault: str, promise: str, reason: str) -> None:
    report = check(Faulty(fault), among=FEW, families=["var"])
    assert not report.ok
    found = [each for each in report.faults if reason in each]
    assert found and any(promise in each.partition(" on ")[0] for each in found), report.faults


GOOD = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from stagevar.accelerators.baselines import DropLast

@dataclass(frozen=True)
class Shorter(DropLast):
    """Leaves scales out."""
    name: ClassVar[str] = "shorter"
'''
BARE = GOOD.replace("@dataclass(frozen=True)\n", "")


def test_a_class_without_settings_of_its_own_needs_no_dataclass(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(BARE)
    assert str(parse("shorter(2)", of_file(tmp_path / "a.py"))) == "shorter(n=2)"


def test_the_accelerators_of_a_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(GOOD)
    found = of_file(tmp_path / "json.py")
    assert list(found) == ["shorter"] and str(parse("shorter(2)", found)) == "shorter(n=2)"
    assert json.dumps(1) == "1" and "shorter" not in known()


def test_a_file_of_a_known_accelerator_is_no_rival_of_it() -> None:
    assert list(of_file(Path(inspect.getfile(known()["fastvar"])))) == ["fastvar"]


def test_a_setting_without_a_kind_takes_any_value_and_a_fault_of_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        GOOD + "    of: int | None = None\n    def __post_init__(self): self.of and {}[self.of]"
    )
    found = of_file(tmp_path / "a.py")
    assert str(parse("shorter(of=0)", found)) == "shorter(of=0)"
    with pytest.raises(OptionError, match="shorter: 3"):
        parse("shorter(of=3)", found)


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("a.py", "x = 1", "it defines none"),
        ("a.py", "import no_such_package", "no_such_package"),
        ("a.py", "raise SystemExit(0)", "SystemExit"),
        ("a.py", "def (", "SyntaxError"),
        ("a.py", GOOD.replace("'shorter'", "'two words'").replace('"shorter"', '"two words"'), "no name of its own"),
        ("a.txt", GOOD, "no Python file"),
        ("a.py", GOOD.replace('"shorter"', '"class"'), "no name of its own"),
        ("a.py", GOOD.replace('"shorter"', '"drop_last"'), "the name drop_last is taken by stagevar.accelerators"),
        ("a.py", BARE + "    share: float = 0.5", "its settings are not read; put @dataclass"),
        ("a.py", GOOD + "    identity: ClassVar = 5", "identity must be settings by name"),
        ("a.py", GOOD + "    identity: ClassVar = {'other': 1}", "unexpected keyword argument 'other'"),
        ("a.py", GOOD + "    signals: ClassVar = frozenset({'noise'})", "signals must be a frozenset of bands"),
        ("a.py", GOOD + "    online: ClassVar = 'yes'", "online must be of the kind bool"),
        ("a.py", GOOD + "    source: ClassVar = None", "source must be of the kind str"),
        ("a.py", GOOD + "    share: float = float('nan')", "cannot be made and read back"),
        ("a.py", GOOD + "    def __post_init__(self): 1 / 0", "cannot be made and read back: ZeroDivisionError"),
        ("a.py", GOOD + "    def __str__(self): return 'shorter(3)'", r"'shorter\(3\)', is read back as others"),
    ],
)
def test_a_file_without_usable_accelerators_is_named(name: str, code: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(code)
    with pytest.raises(OptionError, match=reason):
        of_file(tmp_path / name)


@pytest.mark.usefixtures("quick")
def test_the_command_prints_the_matrix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagevar.measure.check.check.check.__kwdefaults__", {**DEFAULTS, "families": ("var",)})
    (tmp_path / "late.py").write_text(GOOD)
    assert run(["check", str(tmp_path / "late.py")]) == 0
    shown = capsys.readouterr().out
    assert "shorter: all hold" in shown and shown.count("ok") == len(PROMISES) - 1
    assert run(["check", "sparvar", "--json"]) == 1
    [report] = json.loads(capsys.readouterr().out)
    assert report["accelerator"] == "sparvar" and not report["ok"] and len(report["cells"]) == len(PROMISES) - 1
    assert run(["check", "nothing.py"]) == 4 and run(["check", "nothing"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


DEFAULTS = dict(check.__kwdefaults__ or {})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, cls in known().items() if cls.owns and not hasattr(cls, "fitted")])
def test_every_known_accelerator_keeps_its_promises(name: str) -> None:
    report = check(parse(name))
    assert {cell.family for cell in report.cells} == set(FAMILIES)
    assert report.ok, report.faults
