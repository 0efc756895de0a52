"""Fitting an accelerator's numbers, as `stagevar calibrate --accelerator` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from stagevar.cli.progress import counter
from stagevar.errors import OptionError

if TYPE_CHECKING:
    from stagevar.fit import Fittable
    from stagevar.pipeline import Pipeline


def fittable(text: str) -> Fittable:
    """The accelerator whose numbers are to be fitted.

    Raises:
        OptionError: it has none.
    """
    from stagevar.fit import Fittable
    from stagevar.registry import known, parse

    found = parse(text)
    if not isinstance(found, Fittable):
        names = ", ".join(name for name, cls in known().items() if hasattr(cls, "fitted"))
        raise OptionError(f"{found} has no numbers to fit; give --accelerator one of {names}")
    return found


def fit(
    pipe: Pipeline,
    accelerator: Fittable,
    texts: list[str],
    output: Path,
    options: dict[str, Any],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fit, write and say how the file is used."""
    from dataclasses import replace

    from stagevar.measure.study.fitting import fit as fitted

    with counter("pictures", len(texts), quiet=quiet) as advance:
        found = fitted(pipe, accelerator, texts, progress=advance, **options)
    found.save(output)
    use = str(replace(cast("Any", accelerator), fit=str(output)))
    typer.echo(json.dumps(found.to_dict() | {"use": use}) if as_json else use)
