"""Numbers of an accelerator that were fitted to one model: what they hold for, and the file that they are kept in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import stagevar
from stagevar.engine.grids.grid import Schedule, check_schedule
from stagevar.errors import OptionError, quoted
from stagevar.files import replacing
from stagevar.saved import read_saved

if TYPE_CHECKING:
    from torch import Tensor

    from stagevar.engine.plan.watch import Watch

FORMAT = "stagevar fit 2"


class Learning(Protocol):
    """Observes the tensors of all passes, as a tap; its numbers are kept as ``fills``."""

    def __call__(self, name: str, k: int, tensor: Tensor, /) -> None: ...
    def numbers(self) -> list[dict[str, Any]]: ...


@runtime_checkable
class Fittable(Protocol):
    """What an accelerator has besides, if ``stagevar calibrate --accelerator`` is to fit its numbers.

    Attributes:
        name: as in ``Accelerator``.
    """

    name: str

    def looks(self, schedule: Schedule) -> tuple[int, Watch]:
        """The scale behind which a plain picture is looked at, and the watch, one of the latent."""

    def learns(self, schedule: Schedule, depth: int) -> Learning | None:
        """What observes the tensors of plain pictures first, of a network of ``depth`` blocks, if anything does."""

    def trials(self, schedule: Schedule, fit: str) -> tuple[str, ...]:
        """The accelerators by which each picture is drawn again; ``fit`` is a file with what has been learnt."""

    def fitted(self, seen: Tensor, alike: Tensor) -> Mapping[str, Any]:
        """The other numbers, as plain data.

        Args:
            seen: (n, numbers of the watch), of n plain pictures.
            alike: (trials, n), SSIM to the plain picture.
        """


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted numbers.

    Attributes:
        accelerator: name of the accelerator that reads them.
        model: name of the model that they were fitted to.
        versions: of stagevar and torch.
        schedule: grids of the scales that were drawn.
        guidance: weight per scale.
        prompts: number of pictures.
        seed: seed of the first one.
        numbers: plain data; its form is the accelerator's.
    """

    accelerator: str
    model: str
    versions: Mapping[str, str]
    schedule: Schedule
    guidance: tuple[float, ...]
    prompts: int
    seed: int
    numbers: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_schedule(self.schedule)

    def require(self, accelerator: str, model: str, schedule: Schedule) -> None:
        """Refuse to be read for anything else.

        Raises:
            OptionError: names what it was fitted for, what is drawn, and the command that fits.
        """
        pairs = (
            ("accelerator", self.accelerator, accelerator),
            ("model", self.model, model),
            ("stagevar", str(self.versions.get("stagevar")), stagevar.__version__),
            ("grids", _grids(self.schedule), _grids(schedule)),
        )
        for what, own, here in pairs:
            if own != here:
                raise OptionError(
                    f"{accelerator}: the fit is for {what} {quoted(own)}, not for {quoted(here)}; make one with "
                    f"`{command(accelerator, model)}`, and --size for another than the model's own"
                )

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict()) + "\n", encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def load(cls, path: Path) -> Fit:
        """Read a fit that ``save`` wrote.

        Raises:
            MissingFileError: there is no such file.
            OptionError: it is no fit, or one of another version.
        """
        return read_saved(path, "fit", FORMAT, "stagevar calibrate --accelerator", cls)


def command(accelerator: str, model: str) -> str:
    """The command that fits an accelerator, given as its text, to a model."""
    name = accelerator.partition("(")[0]
    text = accelerator if name == accelerator else f'"{accelerator}"'
    return f"stagevar calibrate --accelerator {text} --model {model} -o {name}.json"


def _grids(schedule: Schedule) -> str:
    return " ".join(f"{h}x{w}" for h, w in schedule)
