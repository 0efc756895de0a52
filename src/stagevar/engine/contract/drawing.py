"""How the codes of one scale are drawn: what a family sees of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stagevar.engine.contract.block import Condition
from stagevar.engine.grids.grid import Scale
from stagevar.engine.grids.noise import Uniforms, normals
from stagevar.engine.grids.sent import sent


class Sampling(Protocol):
    """The sampling settings of one image at one scale, as ``ScalePlan`` describes them."""

    @property
    def guidance(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def smooth(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Drawing:
    """One draw of codes for n images that share a pass.

    Attributes:
        at: the scale.
        condition: of the rows that ran, R = n or 2n.
        settings: of each image; ``smooth`` is set in all of them or in none.
        seeds: of each image.
        noise: source of the uniform numbers.
        index: (n, r) positions that the rows at hand belong to, None for all M tokens of the scale.
        known: codes that are given, (n, r) or (n, r, d), -1 where one is drawn; None if all are. The loop puts them in
            the place of what is drawn there.
    """

    at: Scale
    condition: Condition
    settings: Sequence[Sampling]
    seeds: Sequence[int]
    noise: Uniforms
    index: Tensor | None = None
    known: Tensor | None = None

    @property
    def guidance(self) -> list[float]:
        """The weight of each image; it counts where both branches ran."""
        return [each.guidance for each in self.settings]

    def uniforms(self, image: int, each: Sequence[int], device: torch.device) -> Tensor:
        """Uniform numbers (r, *each) in [0, 1) of one image, keyed by seed, scale and position."""
        numbers = sent(self.noise(self.seeds[image], self.at.k, (self.at.tokens, *each)), device)
        return numbers if self.index is None else numbers[self.index[image]]

    def normals(self, channels: int, device: torch.device) -> Tensor:
        """Normal numbers (n, r, channels), keyed alike."""
        return normals(self.seeds, self.at.k, self.at.tokens, channels, self.index, device)
