"""The application and the options that commands share.

Each command imports what it needs when it runs, so that ``--help`` loads no torch.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from stagevar import __version__
from stagevar.errors import Cancelled, MissingFileError, OptionError, SizeError, quoted
from stagevar.parallel.team import team

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stagevar.loading.source import Source
    from stagevar.pipeline import Pipeline
    from stagevar.request import Request


SHARED = ("generate",)
"""Commands whose work the processes of torchrun share."""


class Group(TyperGroup):
    """Commands that an interrupt ends with an error of ours."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Cancelled("interrupted") from None


app = typer.Typer(
    cls=Group,
    help="Draw pictures with next-scale visual autoregressive models.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stagevar {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, as STAGEVAR_DEBUG=1 does.")] = False,
) -> None:
    if debug:
        os.environ["STAGEVAR_DEBUG"] = "1"
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    elif team().ranks.world > 1 and context.invoked_subcommand not in SHARED:
        command = f"stagevar {context.invoked_subcommand}"
        raise OptionError(f"{command} runs in one process; torchrun is for stagevar {', '.join(SHARED)}")


ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A name of `stagevar models`, a folder, file or repository.")
]
WeightsOption = Annotated[
    Path | None, typer.Option(help="Folder with a listed model's files, or its network's file, instead of the hub.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of the network's repository.")]
OfflineOption = Annotated[bool, typer.Option("--local-files-only", help="Download nothing.")]
OffloadOption = Annotated[
    bool, typer.Option("--offload-text-encoder", help="Keep its weights on the CPU between prompts.")
]
ParallelOption = Annotated[
    int, typer.Option("--tensor-parallel", min=1, help="Processes of torchrun that share one network.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 (bf16) or float16 (fp16).")]
QuantizeOption = Annotated[
    str | None, typer.Option(metavar="int8", help="Round the weights of the blocks to a byte each.")
]
MemoryOption = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="AMOUNT", help="Such as 8GB: draw within it, or say what it takes."),
]
SizeOption = Annotated[str | None, typer.Option(metavar="WxH", help="Width and height in pixels.")]
WidthOption = Annotated[int | None, typer.Option(help="Width in pixels, with --height.")]
HeightOption = Annotated[int | None, typer.Option(help="Height in pixels, with --width.")]
AspectOption = Annotated[str | None, typer.Option(metavar="W:H", help="Such as 3:2 or 1.5, in place of a size.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse a size that the model does not draw.")]
GuidanceOption = Annotated[str | None, typer.Option(help="Weight of the prompt: a number, or one per scale.")]
AcceleratorOption = Annotated[
    str, typer.Option("--accelerator", "-a", help="Such as 'stagevar' or 'drop_last(1)'; sums with +.")
]
BatchOption = Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")]
PromptsOption = Annotated[
    Path | None, typer.Option("--prompts", help="File with a prompt per line; - reads standard input.")
]
CaptionsOption = Annotated[
    int, typer.Option("--captions", min=1, help="How many captions, one picture each; at most so many of --prompts.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no table.")]


@dataclass(frozen=True)
class Place:
    """Which model, and how it is put into memory: the options of every command that loads one."""

    model: str
    weights: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    local_files_only: bool = False
    offload_text_encoder: bool = False
    quantize: str | None = None
    max_memory: str | None = None
    tensor_parallel: int = 1
    encoder: bool = False

    def resolve(self) -> Source:
        """What the model's name means; no weights are fetched."""
        from stagevar.loading.sources import resolve
        from stagevar.loading.where import Where

        where = Where(revision=self.revision, local_files_only=self.local_files_only)
        return resolve(self.model, self.weights, where)

    def load(self) -> Pipeline:
        from stagevar.pipeline import Pipeline

        return Pipeline.from_pretrained(self.model, **self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of ``Pipeline.from_pretrained`` beside the model's name."""
        return {name: value for name, value in asdict(self).items() if name != "model"}

    def fetch(self, requests: Sequence[Request]) -> None:
        """Check all that can be checked without the weights, and then download them.

        Raises:
            as ``ready``.
        """
        from stagevar.loading.sources import fetch

        fetch(self.checked(requests)[0])

    def ready(self, requests: Sequence[Request], *, prompts: Sequence[str] = ()) -> Pipeline:
        """The loaded model, once all that can be checked without its weights has been checked.

        Args:
            requests: their sizes, accelerators and plans are checked.
            prompts: are read then, so that a bad one is found before the first is drawn.

        Raises:
            RequestError and its kinds, MissingExtraError, MissingFileError
        """
        from stagevar.drawing import read_prompts
        from stagevar.request import Request

        pipe = self.checked(requests)[1].load()
        read_prompts(pipe.model, [Request(prompt) for prompt in prompts], 16)
        return pipe

    def checked(self, requests: Sequence[Request]) -> tuple[Source, Place]:
        """What the model's name means, and where it is put within ``max_memory``, once all that can be checked without
        its weights has been checked."""
        from stagevar.loading.available import check
        from stagevar.loading.place import read_device, read_dtype, read_quantize
        from stagevar.loading.sources import outline
        from stagevar.memory.limit import offload_within, read_amount
        from stagevar.prepared import prepare

        read_quantize(self.quantize)
        limit, device = read_amount(self.max_memory), read_device(self.device)
        meant = self.resolve()
        model = outline(meant, encoder=self.encoder)
        if self.tensor_parallel > 1:
            from stagevar.loaded import check_alone
            from stagevar.parallel.tensor import check_split

            check_alone(quantize=self.quantize, max_memory=limit)
            check_split(model, self.tensor_parallel)
        for request in requests:
            prepare(model, request)
        offload = self.offload_text_encoder
        if limit is not None:
            settings: dict[str, Any] = {"dtype": read_dtype(self.dtype, device), "device": device}
            settings |= {"quantize": read_quantize(self.quantize), "offload_text_encoder": offload}
            offload = offload_within(meant, limit, requests, **settings)
        check(meant)
        return meant, replace(self, offload_text_encoder=offload)


def one_per_model(models: Sequence[str], place: Place) -> list[Place]:
    """The place of each of several models, which differ in their names alone.

    Raises:
        OptionError: several models, and weights or a revision, which are of one.
    """
    if len(models) > 1 and (place.weights is not None or place.revision is not None):
        raise OptionError("--weights and --revision are of one model; give one --model with them")
    return [replace(place, model=model) for model in models]


def read_place(path: Path, *, folder: bool = False) -> Path:
    """Where a file, or files in a folder, are to go; - is standard output.

    Raises:
        OutputError: it cannot be written to.
    """
    from stagevar.files import require_place

    place = Path("/dev/stdout") if str(path) == "-" and not folder else path.expanduser()
    require_place(place, folder=folder)
    return place


def read_file(path: Path, own: Callable[[Path], bool]) -> Path:
    """Where a file is to go; - is standard output.

    Args:
        own: whether a file that is there already was written by an earlier run, and is replaced.

    Raises:
        OutputError: it cannot be written to, or holds something else.
    """
    from stagevar.files import require_own

    place = read_place(path)
    require_own(place, own)
    return place


def read_numbers(text: str | None, option: str) -> float | tuple[float, ...] | None:
    """One number, or one per scale separated by commas; None without text.

    Args:
        text: what the user gave.
        option: its name, for the message.

    Raises:
        OptionError: a part is no number.
    """
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"{option} takes a number, or one per scale with commas, not {quoted(text)}") from None
    return numbers[0] if len(numbers) == 1 else numbers


def read_whole_numbers(text: str | None, option: str) -> int | tuple[int, ...] | None:
    """As ``read_numbers``, for whole numbers."""
    numbers = read_numbers(text, option)
    several = numbers if isinstance(numbers, tuple) else () if numbers is None else (numbers,)
    if not all(number.is_integer() for number in several):
        raise OptionError(f"{option} takes whole numbers, not {quoted(text)}")
    whole = tuple(map(int, several))
    return whole if isinstance(numbers, tuple) else whole[0] if whole else None


def read_size(
    size: str | None, width: int | None, height: int | None, aspect: str | None, *, strict: bool
) -> dict[str, Any]:
    """The fields of a request that set the size of its picture: height, width and aspect ratio.

    Raises:
        SizeError: ``size`` is not width x height, or is given beside width or height.
    """
    if size is not None:
        sides = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", size)
        if sides is None:
            raise SizeError(f"--size takes width x height in pixels, such as 64x64, not {quoted(size)}")
        if width is not None or height is not None:
            raise SizeError("give --size, or --width and --height, not both")
        width, height = int(sides[1]), int(sides[2])
    return {"height": height, "width": width, "aspect_ratio": aspect, "strict": strict}


def read_prompts(path: Path | None, most: int | None = None) -> list[str]:
    """The prompts of a file, or of standard input for ``-``, one per line; none without a path.

    Args:
        path: what the user gave.
        most: largest number of prompts to return.

    Raises:
        MissingFileError: the file cannot be read.
        OptionError: it is not UTF-8, or holds no prompt.
    """
    if path is None:
        return []
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.expanduser().read_bytes()
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise MissingFileError(f"cannot read prompts {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise OptionError(f"{path} is not a text file in UTF-8") from None
    if not lines:
        raise OptionError(f"{path} holds no prompt; write one per line")
    return lines[:most]
