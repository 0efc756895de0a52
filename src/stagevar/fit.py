"""Numbers of an accelerator that were fitted to one model: what they hold for, and the file that they are kept in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import stagevar
from stagevar.engine.grids.grid import Schedule
from stagevar.errors import MissingFileError, OptionError, quoted
from stagevar.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from stagevar.engine.plan.watch import Watch

FORMAT = "stagevar fit 1"
LARGEST = 2**20
"""Most bytes of a file."""


@runtime_checkable
class Fittable(Protocol):
    """What an accelerator has besides, if ``stagevar calibrate --accelerator`` is to fit its numbers.

    Attributes:
        name: as in ``Accelerator``.
    """

    name: str

    def looks(self, schedule: Schedule) -> tuple[int, Watch]:
        """The scale behind which a plain picture is looked at, and the watch, one of the latent."""

    def trials(self, schedule: Schedule) -> tuple[str, ...]:
        """The accelerators by which each picture is drawn again."""

    def fitted(self, seen: Tensor, alike: Tensor) -> Mapping[str, Any]:
        """The numbers, as plain data.

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
        try:
            with path.open("rb") as file:
                data = json.loads(file.read(LARGEST))
        except (OSError, RecursionError) as error:
            raise MissingFileError(f"cannot read the fit {path}: {getattr(error, 'strerror', None) or error}") from None
        except ValueError:
            data = None
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise OptionError(
                f"{path} is no fit of this version ({FORMAT!r}, not {quoted(found)}); write one with "
                "`stagevar calibrate --accelerator`"
            )
        try:
            return cls(
                accelerator=str(data["accelerator"]),
                model=str(data["model"]),
                versions=dict(data["versions"]),
                schedule=tuple((int(h), int(w)) for h, w in data["schedule"]),
                guidance=tuple(map(float, data["guidance"])),
                prompts=int(data["prompts"]),
                seed=int(data["seed"]),
                numbers=dict(data["numbers"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(f"{path} is a damaged fit: {type(error).__name__} {error}") from None


def command(accelerator: str, model: str) -> str:
    """The command that fits an accelerator to a model."""
    return f"stagevar calibrate --accelerator {accelerator} --model {model} -o {accelerator}.json"


def _grids(schedule: Schedule) -> str:
    return " ".join(f"{h}x{w}" for h, w in schedule)
