"""Training data made on the fly: rendered pictures, their codes per scale, and crops of the two largest scales."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from worlds import World, render

from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import token_rows
from stagevar.families.scenes.network import Scenes

NULL_SHARE = 0.1
CODE_NOISE = 0.15

Spoil = Callable[[Tensor, int], Tensor]
"""Pictures and a seed to what a network sees of them, of which it is to draw the pictures."""


class Example(NamedTuple):
    """What a step learns from: words (n, T), codes and input latents per scale, the tokens of the two largest scales
    that are trained, the pictures (n, 3, h, w), and those that the network sees, if it restores."""

    words: Tensor
    codes: list[Tensor]
    latents: list[Tensor]
    crops: dict[int, Tensor]
    pictures: Tensor
    seen: Tensor | None = None


@torch.no_grad()
def set_statistics(model: Scenes, pictures: Tensor) -> None:
    """Scale of the input latents and log-frequencies of the codes; codes beyond a scale's book are ruled out."""
    codes, latents = tokenised(model, pictures, len(model.config.grids), 0.0)
    model.input_scale.copy_(latents[7].std((0, 2, 3)).clamp(min=0.03))
    for k, each in enumerate(codes):
        frequency = torch.bincount(each.flatten(), minlength=model.level_bias.shape[1]).float() + 0.3
        model.level_bias[k] = (frequency / frequency.sum()).log()
        model.level_bias[k, model.config.codes[k] :] = -30.0


@torch.no_grad()
def tokenised(model: Scenes, pictures: Tensor, count: int, noise: float) -> tuple[list[Tensor], list[Tensor]]:
    """Codes (n, M) of the first ``count`` scales and the latent (n, D, H, W) before each.

    A share up to ``noise`` of the codes that are fed forward is replaced by one of the 16 nearest, and later scales
    code what that left over (the self-correction of Infinity, arXiv 2412.04431).
    """
    tokenizer = model.tokenizer
    rest = tokenizer.features(pictures)
    latent, codes, latents = torch.zeros_like(rest), [], []
    share = torch.rand(len(rest), 1, device=rest.device) * noise
    for k, side in enumerate(tokenizer.grids[:count]):
        vectors = token_rows(resize(rest, (side, side), "area"))
        exact = tokenizer.nearest(k, vectors.flatten(0, 1)).view(len(rest), -1)
        codes.append(exact)
        latents.append(latent)
        fed, wrong = exact.clone(), torch.rand(exact.shape, device=rest.device) < share
        if wrong.any():
            near = torch.cdist(vectors[wrong], tokenizer.codebook[k, : tokenizer.codes[k]]).topk(16, largest=False)
            pick = torch.randint(0, 16, (len(near.indices), 1), device=rest.device)
            fed[wrong] = near.indices.gather(1, pick)[:, 0]
        update = tokenizer.upsampled(k, fed)
        latent, rest = latent + update, rest - update
    return codes, latents


def crop(grids: tuple[int, ...], rng: random.Random) -> dict[int, Tensor]:
    """Token indices of one square region, half the side, at the two largest scales."""
    y, x = rng.randrange(0, 5) / 8, rng.randrange(0, 5) / 8
    chosen = {}
    for k in (len(grids) - 2, len(grids) - 1):
        side, half = grids[k], grids[k] // 2
        rows = torch.arange(half) + round(y * side)
        chosen[k] = (rows[:, None] * side + torch.arange(half) + round(x * side)).flatten()
    return chosen


def batch(
    world: World,
    model: Scenes,
    count: int,
    tokens: int,
    rng: random.Random,
    nulls: float = NULL_SHARE,
    spoil: Spoil | None = None,
) -> Example:
    """One step of about ``tokens`` tokens at the first ``count`` scales; a share ``nulls`` has no caption."""
    grids, device = model.config.grids, model.device
    crops = crop(grids, rng) if count == len(grids) else {}
    length = sum(len(crops[k]) if k in crops else grids[k] ** 2 for k in range(count))
    scenes = [world.sample(rng) for _ in range(max(4, round(tokens / length)))]
    pictures = render(world, scenes, rng).to(device)
    codes, latents = tokenised(model, pictures, count, CODE_NOISE)
    null = torch.tensor(model.vocabulary.null)
    features = model.encode_text([scene.caption for scene in scenes]).features
    words = [null if rng.random() < nulls else each for each in features]
    codes = [each[:, crops[k]] if k in crops else each for k, each in enumerate(codes)]
    seen = None if spoil is None else spoil(pictures, rng.randrange(2**31))
    return Example(torch.stack(words).to(device), codes, latents, crops, pictures, seen)
