"""Accelerators as Markdown: what is claimed beside what was measured, and what each one decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blocks import Row, conditions, difference, measured, scales, step

from stagevar.listing import Listed, shipped
from stagevar.measure.markdown import table

FOLDER = "../src/stagevar/accelerators"


def claims(report: Row) -> str:
    """Per accelerator the published figures beside ours; what the newest run does not hold was not measured."""
    found = report["comparison"]
    by_name = {row["accelerator"]: row for row in found["rows"]}
    rows = [[f"`{each.name}`", *claimed(each), *own(each.name, by_name, report)] for each in shipped()]
    head = ["accelerator", "claimed for", "claimed speed-up", "claimed quality", "here by operations", "by clock"]
    shown = table([*head, "SSIM", "oracle", "difference", "scales run"], rows)
    return f"Ours: {conditions(found)}. {step(found)}\n\n{shown}"


def claimed(each: Listed) -> list[str]:
    """Model, speed-up and quality; a line per claim."""
    lines = [
        (claim.on, "none" if claim.speedup is None else f"{claim.speedup:g}x", claim.quality) for claim in each.claims
    ]
    return ["<br>".join(cells) for cells in zip(*lines, strict=True)] if lines else ["-", "-", "-"]


def own(name: str, by_name: Mapping[str, Row], report: Row) -> Sequence[str]:
    """What we measured of an accelerator on the shipped model."""
    if name not in by_name:
        return [report["left_out"].get(name, "not measured"), "-", "-", "-", "-", "-"]
    row, plain = by_name[name], report["comparison"]["rows"][0]
    return [
        f"{plain['flops'] / row['flops']:.2f}x",
        f"{row['speedup']:.2f}x",
        measured(row, "ssim"),
        f"{row['oracle']:.3f}",
        difference(row),
        scales(row["executed_scales"], report["comparison"]["scales"]),
    ]


def lazy(report: Row) -> str:
    """LazyVAR's settings beside the scales left out that they come to."""
    return beside(report, "lazyvar", "drop_last(4)", "lazyvar(shares=(0.3, 0.2))", "drop_last(2)")


def skips(report: Row) -> str:
    """SkipVAR's targets beside the courses that a picture may be told, taken by all."""
    targets = (f"skipvar(target={target})" for target in (0.9, 0.95, 0.98))
    return beside(report, "skipvar", *targets, "drop_last(2)", "drop_last", "guidance_off(2)")


def beside(report: Row, *names: str) -> str:
    """Some rows of the comparison; those that the newest run does not hold are not shown."""
    found = report["comparison"]
    by_name = {row["accelerator"]: row for row in found["rows"]}
    rows = [[f"`{name}`", *own(name, by_name, report)] for name in names if name in by_name]
    return table(["text", "by operations", "by clock", "SSIM", "oracle", "difference", "scales run"], rows)


def catalogue() -> str:
    """A section per accelerator of the package."""
    return "\n\n".join(map(section, shipped()))


def section(each: Listed) -> str:
    """What the class of an accelerator says of itself."""
    file = each.origin.rpartition(".")[2] + ".py"
    settings = ", ".join(f"{name}={default}" for name, default in each.fields.items())
    lines = {
        "From": each.citation,
        "Follows": each.source,
        "Decides": ", ".join(f"`{axis}`" for axis in each.owns),
        "When": " and ".join(
            {"plan": "before drawing", "revise": "after every scale, per picture"}[h] for h in each.hooks
        ),
        "Settings": f"`{each.name}({settings})`" if settings else "",
        "Plain run": f"`{each.identity}`" if each.identity else "",
        "Combines with": ", ".join(f"`{name}`" for name in each.combines_with),
        "File": f"[{file}]({FOLDER}/{file})",
    }
    listed = "\n".join(f"* {word}: {said}" for word, said in lines.items() if said)
    return f"### {each.name}\n\n{each.about}\n\n{listed}"
