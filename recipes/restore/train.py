"""Teach a trained model to restore: ``PYTHONPATH=recipes python -m restore.train``, then ``--from`` what it has learnt.

The network that draws from words stays as it is. What is trained is its view of the picture, in two runs: first an
encoder, which learns what the clean latent is; then, with the encoder as it is, in every block a cross-attention behind
a gate that begins at zero. Seeded and resumable like ``train.py``, whose steps the second run takes: the codes of the
clean picture are predicted from its own coarser scales, and what the network sees is the picture with a fault. Most
pictures have no caption, as most that are to be restored have none.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from data import CODE_NOISE, Example, batch, tokenised
from restore.degradations import degraded
from restore.sheet import restoration_sheet
from torch import Tensor
from train import Mixture, Training, arguments, validation
from worlds import World, render

from stagevar.engine.contract.model import Defaults
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import token_rows
from stagevar.families.scenes.config import CHANNELS, ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.families.scenes.restoring import Restoring
from stagevar.pipeline import Pipeline

CAPTIONLESS = 0.7
ENCODING: Mixture = ((1.0, {6: 1.0}),)
"""Numbers of scales of a step of the first run. It has many pictures, since it needs few tokens of each."""
ATTENDING: Mixture = ((1.0, {8: 0.4, 10: 0.6}),)
"""Those of the second run."""
TRUSTED = 100
"""Steps from one fit of the trust to the next."""
NAME = "restore"
DEFAULTS = Defaults(guidance=1.0, temperature=0.0)
"""Of each code the most likely, by the prompt's branch alone."""

TRAINED = ("picture.", "trust")
"""What the names of tensors that are trained have in them; all others are the given model's."""
ATTENTION = (".cross.picture.", "picture.out.", "picture.norm.")
"""Of these what the second run trains: the attention, and the states that it reads."""


class Restoration(Training):
    """A run in which all but a part of the view of the picture stays frozen."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.given = Pipeline.from_pretrained(options.begin, device="cpu").model
        self.mixture = ATTENDING if self.given.restores else ENCODING
        super().__init__(options)

    def network(self) -> Scenes:
        model = restoring(self.world.config)
        for name, parameter in model.named_parameters():
            attention = any(part in name for part in ATTENTION)
            parameter.requires_grad_(trained(name) and attention == self.given.restores)
        return model

    def start(self) -> None:
        torch.manual_seed(self.options.seed)
        state = self.network().state_dict() | self.given.state_dict()
        self.model.load_state_dict(state)
        self.average.load_state_dict(state)
        self.save()

    def example(self, count: int, rng: random.Random) -> Example:
        return batch(self.world, self.model, count, self.options.tokens, rng, CAPTIONLESS, degraded)

    def one_step(self) -> None:
        if self.step % TRUSTED == 0:
            fit_trust(self.model, self.world, random.Random(f"trust {self.options.seed} {self.step}"))
            self.average.get_buffer("trust").copy_(self.model.get_buffer("trust"))
        super().one_step()

    def loss(self, example: Example) -> Tensor:
        """The cross-entropy; of the first run the mean squared error of the estimate, in units of the channels'
        deviations."""
        if self.given.restores:
            return super().loss(example)
        model = cast(Restoring, self.model)
        assert example.seen is not None
        with torch.autocast(model.device.type, torch.bfloat16):
            found = model.looked_at(example.seen)[1].float()
        wrong = found - model.tokenizer.features(example.pictures)
        regression = (wrong / model.input_scale[:, None, None]).square().mean()
        self.sums.setdefault(-1, []).append(float(regression.detach()))
        return regression

    def validation(self) -> list[float]:
        with torch.compiler.set_stance("force_eager"):  # a graph of its own would take as long as a hundred steps
            return validation(self.world, self.average, degraded)

    def sheet(self, path: Path) -> dict[str, float]:
        return restoration_sheet(self.average, self.world, path)


@torch.no_grad()
def fit_trust(model: Scenes, world: World, rng: random.Random, count: int = 100) -> None:
    """Set how much the estimate counts at each scale, without a gradient: half of what it deserves where its errors are
    Gaussian and alike in all channels of the latent, since those of neighbours and of scales go together."""
    clean = render(world, [world.sample(rng) for _ in range(count)], rng).to(model.device)
    estimate = cast(Restoring, model).looked_at(degraded(clean, rng.randrange(2**31)))[1]
    codes, latents = tokenised(model, clean, len(model.config.grids), CODE_NOISE)
    for k, side in enumerate(model.config.grids):
        lacking = token_rows(resize(estimate - latents[k], (side, side), "area"))
        wrong = (lacking - model.tokenizer.codebook[k][codes[k]]).square().sum(-1).mean()
        model.get_buffer("trust")[k] = CHANNELS / (4 * wrong)


def restoring(config: ScenesConfig) -> Restoring:
    """The network that restores, of the shape of one that draws from words."""
    return Restoring(replace(config, restores=True), NAME, DEFAULTS)


def trained(name: str) -> bool:
    """Whether a tensor belongs to the view of the picture."""
    return any(part in name for part in TRAINED)


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(
        run=Path("runs/restore"), begin="scenes", steps=2400, tokens=2800, muon=0.004, every=100, sheet=500
    )
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    Restoration(options).train()


if __name__ == "__main__":
    main()
