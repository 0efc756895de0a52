"""A network that draws a picture without its faults: the one that draws from words, and a view of the picture."""

from __future__ import annotations

from dataclasses import fields
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.model import Defaults
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import Branch, expand_rows, token_rows
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.families.scenes.picture import (
    HALVED,
    PictureAttention,
    PictureCondition,
    PictureEncoder,
    SeeingAttention,
)

NO_CODE = -1e3
"""Nearness of a code that a scale does not have; those of others are of the size of squared colours."""


class Restoring(Scenes):
    """Draws the picture that ``seeing`` adds to its condition, without rain, haze, noise, blur or darkness."""

    restores = True
    cross = SeeingAttention

    def __init__(self, config: ScenesConfig, name: str = "restore", defaults: Defaults | None = None) -> None:
        super().__init__(config, name, defaults)
        self.picture = PictureEncoder(config.width)
        self.register_buffer("trust", torch.zeros(len(config.grids)))
        self.trust: Tensor
        for view in self.views:
            view.states = (config.grids[-1] // HALVED) ** 2

    @property
    def views(self) -> list[PictureAttention]:
        """The attention to the picture of every block."""
        return [cast(SeeingAttention, block.get_submodule("cross")).picture for block in self.layers]

    def branches(self, schedule: Schedule) -> tuple[Branch, ...]:
        prompt: tuple[Branch, ...] = ("cond",)
        return prompt * len(schedule)

    def seeing(self, condition: Condition, pictures: Tensor) -> PictureCondition:
        condition, (states, estimate) = super().seeing(condition, pictures), self.looked_at(pictures)
        grid = estimate.shape[-2] // HALVED, estimate.shape[-1] // HALVED
        rope = self._place(grid)[1]
        keys_values = [view.keys_values(states, rope) for view in self.views]
        picture_kv = tuple((expand_rows(k, condition.rows), expand_rows(v, condition.rows)) for k, v in keys_values)
        given = {f.name: getattr(condition, f.name) for f in fields(Condition)}
        return PictureCondition(**given, picture_kv=picture_kv, estimate=expand_rows(estimate, condition.rows))

    def looked_at(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """States (n, T, C) of pictures, and what their latents (n, D, H, W) are thought to be without faults."""
        scale = self.input_scale[:, None, None]
        latents = (self.tokenizer.features(pictures) / scale).split(len(pictures) if torch.is_grad_enabled() else 1)
        found = [self.picture(each) for each in latents]  # one by one the bits do not depend on the batch
        return torch.cat([states for states, _ in found]), torch.cat([estimate for _, estimate in found]) * scale

    def evidence(self, latent_nDHW: Tensor, condition: Condition, at: Scale) -> Tensor | None:
        """Minus the squared distance of each code to what the latent lacks of the estimate, times the scale's trust:
        the logarithm of how likely the estimate is if that code is right."""
        assert isinstance(condition, PictureCondition) and condition.estimate is not None
        lacking = resize(condition.estimate[: len(latent_nDHW)] - latent_nDHW, at.grid, "area")
        book = self.tokenizer.codebook[at.k, : self.config.codes[at.k]]
        near = 2 * token_rows(lacking) @ book.T - book.square().sum(1)
        return self.trust[at.k] * F.pad(near, (0, max(self.config.codes) - len(book)), value=NO_CODE)
