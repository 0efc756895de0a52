"""The table of what is supported, from the catalogue, the shapes of its models and the registry of accelerators."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import OptionError
from stagevar.families.catalogue import FAMILIES, ModelEntry, bare, entries
from stagevar.measure import markdown
from stagevar.pipeline import Pipeline
from stagevar.registry import known
from stagevar.request import Request

COLUMNS = ("family", "model", "parameters", "pictures", "weights", "text encoder", "accelerators")
BLOCK = re.compile(r"(?<=<!-- support: made by stagevar models --markdown -->\n).*?(?=<!-- end of support -->)", re.S)


def table() -> str:
    """Markdown: a row per model with its picture sizes, weights and accelerators, and the accelerators' names."""
    names = [name for name, kind in known().items() if kind.__module__.startswith("stagevar.") and name != "none"]
    fitted = [name for name in names if hasattr(known()[name], "fitted")]
    usual = [name for name in names if name not in fitted]
    listed, others = (", ".join(f"`{name}`" for name in each) for each in (usual, fitted))
    return (
        markdown.table(COLUMNS, [_row(entry, usual) for entry in entries()])
        + f"\n\nAccelerators at every picture size: {listed}.\n"
        + f"With numbers that `stagevar calibrate --accelerator NAME` fits to a model and a size: {others}.\n"
    )


def _row(entry: ModelEntry, names: Sequence[str]) -> list[str]:
    size, model = FAMILIES[entry.family].sizes[entry.name], bare(entry.name)
    weights = ", ".join(f"`{source}`" for source in entry.sources) if size.published else entry.sources[0]
    text = ", ".join(f"`{repository}`" for repository in size.text) if size.published or size.shipped else ""
    refused = [name for name in names if not _takes(model, name)]
    return [
        entry.family,
        f"`{entry.name}`",
        f"{entry.parameters / 1e9:.2g}B" if entry.parameters >= 1e9 else f"{entry.parameters / 1e6:.0f}M",
        _pictures(model),
        weights,
        text or "-",
        "all" if not refused else f"all but {', '.join(refused)}",
    ]


def _pictures(model: ScaleModel) -> str:
    sizes, (height, width) = model.sizes(), model.picture_size(model.schedule())
    more = f" and {len(sizes) - 1} more sizes" if len(sizes) > 1 else ""
    return f"{width}x{height}{more}"


def _takes(model: ScaleModel, accelerator: str) -> bool:
    """Whether an accelerator makes a plan for every picture size."""
    pipe = Pipeline(model)
    try:
        for size in model.sizes():
            pipe.prepare(Request("any", height=size[0], width=size[1], accelerator=accelerator))
    except OptionError:
        return False
    return True


def rewrite(readme: Path) -> bool:
    """Put the table into a document between its two comments.

    Returns:
        Whether that changed the document.

    Raises:
        OptionError: the document has no such comments.
    """
    text = readme.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise OptionError(f"{readme} has no place for the table of support; it is marked by two comments")
    changed = BLOCK.sub(lambda _: f"\n{table()}\n", text)
    readme.write_text(changed, encoding="utf-8")
    return changed != text
