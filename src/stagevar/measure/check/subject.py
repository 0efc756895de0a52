"""An accelerator on a small network of one family, and how it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from stagevar.accelerators.base import Accelerator, Nothing
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Grid
from stagevar.engine.loop.trace import Trace
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError, StagevarError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PICTURES = 3
"""Pictures of a batch; picture i has the model's sample prompt i and seed i."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pictures of one batch.

    Attributes:
        latents: of each picture (D, H, W).
        trace: record of the call.
        plans: of each picture, as they stood at the end.
    """

    latents: list[Tensor]
    trace: Trace
    plans: tuple[Plan, ...]


@dataclass(frozen=True)
class Subject:
    """What is checked in a cell.

    Attributes:
        accelerator: with the settings that are checked.
        family: of the small network.
        classes: accelerators by name that texts may name, the accelerator's own class among them.
    """

    accelerator: Accelerator
    family: str
    classes: Mapping[str, type[Accelerator]]

    @cached_property
    def model(self) -> ScaleModel:
        return tiny(self.family)

    @cached_property
    def pipe(self) -> Pipeline:
        return Pipeline(self.model)

    @cached_property
    def sizes(self) -> dict[str, Grid]:
        """The smallest square, tall and wide picture of the family, as far as it draws them."""
        shapes = {"square": 0, "tall": 1, "wide": -1}
        found = {
            name: [size for size in self.model.sizes() if (size[0] > size[1]) - (size[0] < size[1]) == sign]
            for name, sign in shapes.items()
        }
        return {name: min(sizes) for name, sizes in found.items() if sizes}

    @cached_property
    def size(self) -> Grid:
        """The picture of the checks that need one shape only."""
        return next(iter(self.sizes.values()))

    @cached_property
    def plain(self) -> list[Tensor]:
        """Latents of the plain run."""
        return self.draw(range(PICTURES), self.size, Nothing()).latents

    @cached_property
    def drawn(self) -> Drawn:
        """The same pictures by the accelerator."""
        return self.draw(range(PICTURES), self.size)

    def request(self, picture: int, size: Grid, accelerator: Accelerator | None = None) -> Request:
        return Request(
            self.model.samples[picture],
            seed=picture,
            height=size[0],
            width=size[1],
            smooth=False,
            accelerator=accelerator or self.accelerator,
        )

    def refusal(self, accelerator: Accelerator | None = None) -> str:
        """Why the accelerator refuses the family's pictures before anything is drawn; empty if it does not.

        Raises:
            OptionError: its code fails, or makes no plan for them.
        """
        try:
            self.pipe.prepare(self.request(0, self.size, accelerator))
        except OptionError as error:
            if isinstance(error.__cause__, StagevarError):
                return str(error)
            raise
        return ""

    def draw(self, pictures: Sequence[int], size: Grid, accelerator: Accelerator | None = None) -> Drawn:
        """Draw one batch."""
        requests = [self.request(picture, size, accelerator) for picture in pictures]
        *_, last = self.pipe.events(requests, output_type="latent")
        assert last.result is not None
        return Drawn(last.result.images, last.result.trace, last.plans)
