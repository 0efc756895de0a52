"""The table of what is supported, from the catalogue, the shapes of its models and the registry of accelerators."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import OptionError
from stagevar.families.catalogue import FAMILIES, ModelEntry, bare, entries
from stagevar.pipeline import Pipeline
from stagevar.registry import known
from stagevar.request import Request

BLOCK = re.compile(r"(?<=<!-- support: made by stagevar models --markdown -->\n).*?(?=<!-- end of support -->)", re.S)


def table() -> str:
    """Markdown: a row per model with its picture sizes, weights and accelerators, and the accelerators' names."""
    names = [name for name, kind in known().items() if kind.__module__.startswith("stagevar.") and name != "none"]
    lines = [
        "| family | model | parameters | pictures | weights | text encoder | accelerators |",
        "|---|---|---|---|---|---|---|",
        *(_row(entry, names) for entry in entries()),
    ]
    listed = ", ".join(f"`{name}`" for name in names)
    return "\n".join(lines) + f"\n\nAccelerators at every picture size: {listed}.\n"


def _row(entry: ModelEntry, names: Sequence[str]) -> str:
    size, model = FAMILIES[entry.family].sizes[entry.name], bare(entry.name)
    network = entry.sources[0] if not size.parts else f"`{size.parts[0].repository}`"
    text = ", ".join(f"`{repository}`" for repository in size.text) if size.parts or size.shipped else ""
    refused = [name for name in names if not _takes(model, name)]
    cells = [
        entry.family,
        f"`{entry.name}`",
        f"{entry.parameters / 1e9:.2g}B" if entry.parameters >= 1e9 else f"{entry.parameters / 1e6:.0f}M",
        _pictures(model),
        network,
        text or "-",
        "all" if not refused else f"all but {', '.join(refused)}",
    ]
    return f"| {' | '.join(cells)} |"


def _pictures(model: ScaleModel) -> str:
    sizes, (height, width) = model.sizes(), model.picture_size(model.schedule())
    more = f" and {len(sizes) - 1} more sizes" if len(sizes) > 1 else ""
    return f"{height}x{width}{more}"


def _takes(model: ScaleModel, accelerator: str) -> bool:
    """Whether an accelerator makes a plan for every picture size."""
    pipe = Pipeline(model)
    try:
        for size in model.sizes():
            pipe.plan(model.schedule(*size), Request("any", accelerator=accelerator))
    except OptionError:
        return False
    return True


def rewrite(readme: Path) -> bool:
    """Put the table into a document between its two comments; whether that changed anything.

    Raises:
        OptionError: the document has no such comments.
    """
    text = readme.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise OptionError(f"{readme} has no place for the table of support; it is marked by two comments")
    changed = BLOCK.sub(lambda _: f"\n{table()}\n", text)
    readme.write_text(changed, encoding="utf-8")
    return changed != text
