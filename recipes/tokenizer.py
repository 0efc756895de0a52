"""Fit the patch tokenizer: principal axes of 2 x 2 patches, then k-means residual codebooks scale by scale."""

from __future__ import annotations

import torch
from torch import Tensor

from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import token_rows
from stagevar.families.scenes.config import CHANNELS
from stagevar.families.scenes.tokenizer import PatchQuantizer


@torch.no_grad()
def fit_axes(tokenizer: PatchQuantizer, pictures: Tensor) -> None:
    """Set the mean of patches and their principal axes, in a tokenizer that has neither."""
    patches = tokenizer.features(pictures).permute(1, 0, 2, 3).reshape(CHANNELS, -1)
    tokenizer.mean.copy_(patches.mean(1))
    centred = patches - tokenizer.mean[:, None]
    tokenizer.basis.copy_(torch.linalg.eigh(centred @ centred.T / centred.shape[1]).eigenvectors.flip(1))


@torch.no_grad()
def fit_codes(tokenizer: PatchQuantizer, pictures: Tensor, iterations: int = 15) -> None:
    """Fill the codebooks scale by scale."""
    rest = tokenizer.features(pictures)
    for k, side in enumerate(tokenizer.grids):
        vectors = token_rows(resize(rest, (side, side), "area")).flatten(0, 1)
        sample = vectors[torch.randperm(len(vectors))[:60000]]
        tokenizer.codebook[k, : tokenizer.codes[k]] = _k_means(sample, tokenizer.codes[k], iterations)
        codes = tokenizer.nearest(k, vectors).view(len(pictures), -1)
        rest = rest - torch.cat([tokenizer.upsampled(k, part) for part in codes.split(500)])


def coded(tokenizer: PatchQuantizer, pictures: Tensor) -> Tensor:
    """The pictures as their codes show them."""
    latent = torch.zeros_like(tokenizer.features(pictures))
    for k, codes in enumerate(tokenizer.encode(pictures)):
        latent = latent + tokenizer.upsampled(k, codes)
    return tokenizer.decode(latent)


def _k_means(vectors: Tensor, count: int, iterations: int) -> Tensor:
    """Centres (count, D), seeded in proportion to squared norm so that rare large residuals are covered, and sorted
    along the first principal axis so that neighbours in code order look alike."""
    weight = vectors.square().sum(1)
    weight = weight + 0.3 * weight.mean()
    centres = vectors[torch.multinomial(weight, count)]
    for _ in range(iterations):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in vectors.split(16384)])
        sizes = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        fresh = vectors[torch.multinomial(weight, count)]
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], fresh)
    return centres[centres[:, 0].argsort()]
