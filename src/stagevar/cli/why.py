"""`stagevar why`: one picture, what ran, by what it was decided, what it cost and what it changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from stagevar.cli.options import DeviceOption, JsonOption, OfflineOption, QuietOption, app, read_file, read_place


@app.command()
def why(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A PNG file of `stagevar generate`.")],
    device: DeviceOption = "auto",
    local_files_only: OfflineOption = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The PNG that shows it [NAME-why.png beside the picture].")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say why a picture is as it is.

    Draws it again from the record in its file, and its plain run beside it: the plan, the rows that ran at each scale,
    the signals that decided, time, operations, and what they changed. Writes all of it as one PNG, too.
    """
    from stagevar.cli.pictures import require_apart
    from stagevar.cli.repeat import repeated
    from stagevar.cli.show_why import why as show
    from stagevar.files import is_stdout, reserving
    from stagevar.measure.study.plots import available
    from stagevar.measure.why.comparison import Comparison
    from stagevar.measure.why.sheet import is_sheet, write_sheet
    from stagevar.measure.why.why import answer

    available()
    image, _, request, place = repeated(picture, device, local_files_only=local_files_only)
    target = None if output is None else read_file(output, is_sheet)
    beside = read_place(picture.parent, folder=True) if target is None else picture.parent
    stream = target is not None and is_stdout(target)
    require_apart(stream, as_json)
    pipe = place.ready([request], prompts=[request.prompt] * (not request.unconditional))
    comparison = Comparison(pipe, request)
    for _ in comparison.draw():
        pass
    found = answer(comparison)
    same = comparison.accelerated.previews[-1].tobytes() == image.tobytes()
    with named(target) if target else reserving(beside, f"{picture.stem}-why", ".png") as sheet:
        write_sheet(sheet[1], comparison, found)
    found |= {"same": same, "file": str(sheet[0])}
    if as_json:
        typer.echo(json.dumps(found))
    elif not (quiet or stream):
        show(found)


@contextmanager
def named(path: Path) -> Iterator[tuple[Path, Path]]:
    """A path and a temporary file that takes its place, as ``files.reserving`` has them."""
    from stagevar.files import replacing

    with replacing(path) as temporary:
        yield path, temporary
