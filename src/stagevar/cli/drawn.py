"""Options of the commands that draw pictures: how codes are drawn, how many pictures, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TemperatureOption = Annotated[str | None, typer.Option(help="0 takes the likeliest code: a number, or one per scale.")]
TopKOption = Annotated[
    str | None, typer.Option(help="Draw from the k likeliest codes; 0 means all: a number, or one per scale.")
]
TopPOption = Annotated[
    str | None, typer.Option(help="Draw from this share of probability: a number, or one per scale.")
]
SmoothOption = Annotated[
    bool | None, typer.Option(help="Mix codes instead of drawing one per token, where the model can.")
]
CountOption = Annotated[int, typer.Option("-n", "--count", help="Pictures per prompt.")]
SeedOption = Annotated[int | None, typer.Option(help="The same seed draws the same picture.")]
NegativeOption = Annotated[str | None, typer.Option(help="What the pictures should not show.")]
PicturesOption = Annotated[
    Path, typer.Option("-o", "--output", help="Folder of the pictures, a file such as star.png, or - for stdout.")
]
TraceOption = Annotated[Path | None, typer.Option(help="File for the record of all passes, as JSON lines.")]
