"""Print on stdout why a picture is as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagevar.cli.show import figure, line, new_table, print_table


def why(answer: Mapping[str, Any]) -> None:
    """What ran at each scale, what decided there, then the plan and what it changed in words."""
    table = new_table("scale", "grid", "stage", "~run", ">kept", ">rows", ">of", ">ms", ">of", ">GFLOP", ">of", gap=1)
    for row in answer["scales"]:
        run = f"{row['run']} {row['branch']}" if row["run"] == "full" else row["run"]
        cells = row["scale"], row["grid"], row["stage"] or "-", run, f"{row['kept']:.0%}"
        times = f"{row['milliseconds']:.1f}", f"{row['plain_milliseconds']:.1f}"
        figures = row["rows"], row["plain_rows"], *times, figure(row["gflop"]), figure(row["plain_gflop"])
        table.add_row(*map(str, (*cells, *figures)))
    print_table(table)
    decided = new_table("behind", "~decided by", ">measured", "", ">bound", "plan")
    for row in answer["scales"]:
        for number, reason in enumerate(row["reasons"]):
            value, bound = reason["value"], reason["bound"]
            held = ("", "") if bound is None else ("<=" if value <= bound else ">", f"{bound:.4f}")
            first, outcome = (row["grid"], "revised" if row["revised"] else "") if number == 0 else ("", "")
            decided.add_row(first, reason["about"], f"{value:.4f}", *held, outcome)
    if decided.rows:
        print_table(decided)
    for said in answer["plan"]:
        line(said)
    changed = answer["changed"]
    line(
        f"{answer['accelerator']}: {answer['milliseconds']:.0f} ms of the network in place of "
        f"{answer['plain_milliseconds']:.0f} ms, {answer['fewer_operations']:.2f}x fewer operations"
    )
    bands = " ".join(f"{band:.2f}" for band in changed["bands"])
    line(
        f"to the plain run: SSIM {changed['ssim']:.3f}, PSNR {changed['psnr']:.1f} dB, {changed['pixels']:.0%} of the "
        f"pixels differ, energy of the bands from low to high {bands}"
    )
    line("the picture of the file, pixel by pixel" if answer["same"] else "NOT the picture of the file, pixel by pixel")
    line(answer["file"])
