"""Held-out pictures, what was spoilt of them and what is made of it, to look at."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from restore.degradations import DEGRADATIONS
from sheet import contact_sheet
from tokenizer import coded
from torch import Tensor
from worlds import World, render

from stagevar.families.scenes.network import Scenes
from stagevar.measure.likeness.fidelity import psnr
from stagevar.pipeline import Pipeline

EACH = 4
"""Pictures of each degradation on a sheet."""


def restoration_sheet(model: Scenes, world: World, path: Path) -> dict[str, float]:
    """Write a sheet with a row for each degradation: EACH times the degraded picture, the restored one, the
    tokenizer's reconstruction of the degraded one, and the clean one. What restoring gains in dB, by degradation."""
    rng, pipe = random.Random("sheet"), Pipeline(copy.deepcopy(model).eval())
    rows, gains = [], {}
    for index, (name, spoil) in enumerate(DEGRADATIONS.items()):
        clean = render(world, [world.sample(rng, held_out=True) for _ in range(EACH)], rng)
        seen = bytes_of(spoil(clean, torch.Generator().manual_seed(index)))
        found = restored(pipe, seen)
        rows.append(torch.stack([seen, found, coded(model.tokenizer, seen), clean], 1).flatten(0, 1))
        gains[name] = round(float((psnr(found, clean) - psnr(seen, clean)).mean()), 2)
    contact_sheet(torch.cat(rows), path, 4 * EACH)
    return gains


def restored(pipe: Pipeline, pictures: Tensor, prompts: Sequence[str] | str = "", **settings: Any) -> Tensor:
    """What a pipeline makes of pictures (n, 3, h, w)."""
    found = pipe(prompts, image=list(pictures), seed=0, batch_size=len(pictures), output_type="pt", **settings)
    return torch.stack(found.images)


def bytes_of(pictures: Tensor) -> Tensor:
    """Pictures as their files hold them: rounded to 8 bits."""
    return (pictures * 255).round() / 255
