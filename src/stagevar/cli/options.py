"""The application and the options that commands share.

Each command imports what it needs when it runs, so that ``--help`` loads no torch.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from stagevar import __version__
from stagevar.errors import Cancelled, MissingFileError, OptionError, SizeError

if TYPE_CHECKING:
    from stagevar.pipeline import Pipeline


class Group(TyperGroup):
    """Commands that an interrupt ends with an error of ours."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Cancelled("interrupted; pictures that were finished are kept") from None


app = typer.Typer(
    cls=Group,
    help="Draw pictures with next-scale visual autoregressive models.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stagevar {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, as STAGEVAR_DEBUG=1 does.")] = False,
) -> None:
    if debug:
        os.environ["STAGEVAR_DEBUG"] = "1"
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


ModelOption = Annotated[str, typer.Option("--model", "-m", help="A name of `stagevar models`, or a folder.")]
WeightsOption = Annotated[Path | None, typer.Option(help="Folder with a listed model's files, instead of the hub.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SizeOption = Annotated[str | None, typer.Option(metavar="HxW", help="Height and width in pixels.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")]


def load_pipeline(model: str, weights: Path | None, device: str, dtype: str = "auto") -> Pipeline:
    """The model of the options."""
    from stagevar.pipeline import Pipeline

    return Pipeline.from_pretrained(model, weights=weights, device=device, dtype=dtype)


def read_numbers(text: str | None, option: str) -> float | list[float] | None:
    """One number, or one per scale separated by commas."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"{option} takes a number, or one per scale separated by commas, not {text!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers


def read_size(text: str | None) -> tuple[int | None, int | None]:
    """Height and width of ``--size``."""
    if text is None:
        return None, None
    sides = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text)
    if sides is None:
        raise SizeError(f"--size takes height x width in pixels, such as 64x64, not {text!r}")
    return int(sides[1]), int(sides[2])


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, one per line."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise MissingFileError(f"cannot read prompts {path}: {getattr(error, 'strerror', None) or error}") from None
    if not lines:
        raise OptionError(f"{path} holds no prompt; write one per line")
    return lines
