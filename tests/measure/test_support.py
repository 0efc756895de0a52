"""The README's table of support is what the code says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stagevar.errors import OptionError
from stagevar.families.catalogue import names
from stagevar.families.stand_ins import SCHEDULES
from stagevar.families.tiny import tiny
from stagevar.measure.predict import support

README = Path(__file__).parents[2] / "README.md"
Run = Callable[..., tuple[int, str, str]]


def test_the_readme_has_the_table_that_the_code_makes(command: Run) -> None:
    code, out, _ = command("models", "--markdown")
    assert code == 0
    assert out in README.read_text(), "run: stagevar models --rewrite README.md"
    assert all(f"| `{name}` |" in out for name in names())


def test_a_document_is_renewed_in_place(tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "README.md"
    before, _, rest = README.read_text().partition("| family |")
    table = "| family |" + rest[: rest.index("<!-- end of support -->")]
    monkeypatch.setattr(support, "table", lambda: table.removesuffix("\n"))
    document.write_text(before + "stale\n" + rest[rest.index("<!-- end of support -->") :])
    for said in ("renewed", "up to date"):
        code, out, _ = command("models", "--rewrite", document)
        assert code == 0 and said in out
    assert document.read_text() == README.read_text()


def test_a_document_without_a_place_for_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# No table")
    with pytest.raises(OptionError, match="two comments"):
        support.rewrite(tmp_path / "a.md")


def test_sizes_are_width_by_height() -> None:
    model = tiny("var", schedules=SCHEDULES[1:2])
    (height, width), *_ = model.sizes()
    assert height > width and support._pictures(model) == f"{width}x{height}"


def test_an_accelerator_that_a_model_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_takes", lambda model, name: name != "drop_last")
    assert "| all but drop_last |" in support.table()
