"""`stagevar conform`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from stagevar.cli.options import JsonOption, app
from stagevar.errors import MissingFileError, StagevarError


@app.command()
def conform(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Conformance sets, or folders of sets.")],
    as_json: JsonOption = False,
) -> None:
    """Check the engine against conformance sets.

    Exits with 0 only if all tensors of all sets hold, with 1 if one does not, and with the code of the error if a set
    cannot be checked.
    """
    from stagevar.cli import show
    from stagevar.measure.conform.conform import conform as check

    all_hold, failed = True, 0
    for folder in _sets(folders):
        try:
            report = check(folder)
        except StagevarError as error:
            failed = failed or error.exit_code
            typer.echo(f"error: {error}", err=True)
            if as_json:
                typer.echo(json.dumps({"set": folder.resolve().name, "ok": False, "error": str(error)}))
            continue
        all_hold &= report.ok
        if as_json:
            typer.echo(json.dumps(report.to_json()))
        else:
            show.conformance(report)
    raise typer.Exit(failed or int(not all_hold))


def _sets(folders: list[Path]) -> list[Path]:
    """The folders themselves where they are sets, else the sets in them."""
    sets: list[Path] = []
    for folder in folders:
        if os.path.isfile(folder / "config.json"):  # noqa: PTH113 - unlike Path.is_file, never raises
            sets.append(folder)
            continue
        inside = sorted(path.parent for path in folder.glob("*/config.json"))
        if not inside:
            raise MissingFileError(f"{folder} is no conformance set and holds none; a set has a config.json")
        sets += inside
    return sets
