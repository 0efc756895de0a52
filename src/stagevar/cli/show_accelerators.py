"""Print accelerators on stdout: the list, what one makes of a model, and which of its promises hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stagevar.cli.show import figure, line, new_table, print_table

if TYPE_CHECKING:
    from stagevar.listing import Listed
    from stagevar.measure.check.check import Report


def accelerators(rows: Sequence[Listed]) -> None:
    """Each with its fields and their defaults, and what it does."""
    table = new_table("~accelerator", "~what it does")
    for row in rows:
        values = ", ".join(f"{name}={default}" for name, default in row.fields.items())
        table.add_row(f"{row.name}({values})" if values else row.name, row.about)
    print_table(table)


def explanation(answer: Mapping[str, Any]) -> None:
    """The plan, scale by scale, and what it saves."""
    columns = "scale", "grid", "stage", "~run", "branch", "~tokens", ">kept", ">guidance", ">rows", ">GFLOP", ">share"
    table = new_table(*columns, gap=1)
    for row in answer["rows"]:
        guidance = "-" if row["guidance"] is None else f"{row['guidance']:.3g}"
        run = f"{row['run']} with {row['group'][0]}" if row["scale"] in row["group"][1:] else row["run"]
        cells = row["scale"], row["grid"], row["stage"] or "-", run, row["branch"]
        tokens = row["tokens"].replace("(", " (")  # where a narrow terminal may break it
        figures = f"{row['kept']:.0%}", guidance, row["rows"], f"{row['gflop']:.4g}", f"{row['share']:.1%}"
        table.add_row(*map(str, (*cells, tokens, *figures)))
    print_table(table)
    size = "x".join(map(str, reversed(answer["size"])))
    line(
        f"{answer['accelerator']} on {answer['model']}, {size}, {answer['text_length']} text tokens: "
        f"{figure(answer['gflop'])} GFLOP per picture, {figure(answer['plain_gflop'])} in the plain run: "
        f"{answer['flop_ratio']:.2f}x; besides {figure(answer['condition_gflop'])} once for the text"
    )
    line(answer["note"])


def checked(report: Report) -> None:
    """A row per promise and a column per family; below, what does not hold and what was refused."""
    families = dict.fromkeys(cell.family for cell in report.cells)
    table = new_table("promise", *families, title=report.accelerator)
    for promise in dict.fromkeys(cell.promise for cell in report.cells):
        states = {cell.family: cell.state for cell in report.cells if cell.promise == promise}
        table.add_row(promise, *(WORDS[states[family]] for family in families))
    print_table(table)
    for family, reason in {cell.family: cell.reason for cell in report.cells if cell.state == "refused"}.items():
        line(f"refused on {family}: {reason}")
    for fault in report.faults:
        line(f"fails: {fault}")
    line(f"{report.accelerator}: {'all hold' if report.ok else 'NOT ALL HOLD'}")
    line(f"other pictures than the plain run's on {', '.join(report.acts) or 'no family'}")


WORDS = {"holds": "ok", "fails": "FAILS", "refused": "refused", "no such": "-"}
