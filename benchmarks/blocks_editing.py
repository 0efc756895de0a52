"""Measured figures of edits and likelihoods as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def editing(report: Row) -> str:
    """How the oracle reads edits, and how often the likeliest caption is the right one."""
    count, found, settings = report["edits"], report["likelihood"], report["settings"]
    error = (report["as_asked"] * (1 - report["as_asked"]) / count) ** 0.5
    said = ", ".join(f"{name} {value}" for name, value in settings.items())
    return (
        f"scenes, accelerator `{report['accelerator']}`, {said}, one seed per picture:\n\n"
        f"* Of {count} pictures of two objects one object was changed, in colour or shape. The oracle reads "
        f"{report['as_asked']:.1%} (± {error:.1%}) as asked: {report['edited']:.1%} have the new object and no third, "
        f"{report['unchanged']:.1%} the other one as it was and where it was. It reads {report['reconstructed']:.1%} "
        f"of the reconstructions right.\n"
        f"* Of {found['captions']} captions that differ in a word or two the picture's own is the likeliest for "
        f"{found['accuracy']:.1%} of {found['pictures']} rendered pictures (chance {1 / found['captions']:.1%}); they "
        f"have {found['nats']:.0f} nats on average under it."
    )
