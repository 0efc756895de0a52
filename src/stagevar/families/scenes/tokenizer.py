"""The tokenizer of the shipped model: projection of pixel patches on principal axes, and residual quantisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import placed, token_map, token_rows
from stagevar.families.scenes.config import CHANNELS, PATCH, ScenesConfig


class PatchQuantizer(nn.Module):
    """A tokenizer without a network. It projects pixel patches on their principal axes and quantises the residual
    of each scale to the nearest vector of a codebook."""

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        self.grids, self.codes = config.grids, config.codes
        self.register_buffer("basis", torch.eye(CHANNELS))
        self.register_buffer("mean", torch.zeros(CHANNELS))
        self.register_buffer("codebook", torch.zeros(len(config.grids), max(config.codes), CHANNELS))
        self.basis: Tensor
        self.mean: Tensor
        self.codebook: Tensor

    def features(self, pictures: Tensor) -> Tensor:
        """(n, 3, 2H, 2W) in [0, 1] to the latent that the scales approximate, (n, D, H, W)."""
        patches = F.pixel_unshuffle(pictures * 2 - 1, PATCH) - self.mean[:, None, None]
        return torch.einsum("ncHW,cd->ndHW", patches, self.basis)

    def decode(self, latent_nDHW: Tensor) -> Tensor:
        """The transpose of ``features``: (n, 3, 2H, 2W), clamped to [0, 1]."""
        patches = torch.einsum("ndHW,cd->ncHW", latent_nDHW, self.basis) + self.mean[:, None, None]
        return ((F.pixel_shuffle(patches, PATCH) + 1) / 2).clamp(0, 1)

    def nearest(self, k: int, vectors_ND: Tensor) -> Tensor:
        """Index (N,) of the nearest code of scale k."""
        book = self.codebook[k, : self.codes[k]]
        squares = book.square().sum(1)
        chunks = [torch.addmm(squares, part, book.T, alpha=-2).argmin(1) for part in vectors_ND.split(16384)]
        return torch.cat(chunks)

    def upsampled(
        self, k: int, codes_nM: Tensor, index_nr: Tensor | None = None, gain_nr: Tensor | None = None
    ) -> Tensor:
        """The codes' contribution to the latent, (n, D, H, W), each times its gain. With ``index_nr`` the codes belong
        to these positions, and the others add nothing."""
        side, final = self.grids[k], self.grids[-1]
        vectors = placed(self.codebook[k][codes_nM], side * side, index_nr, gain_nr)
        return resize(token_map(vectors, (side, side)), (final, final), "bicubic")

    def encode(self, pictures: Tensor) -> list[Tensor]:
        """Codes (n, M) of every scale."""
        rest, codes = self.features(pictures), []
        for k, side in enumerate(self.grids):
            vectors = token_rows(resize(rest, (side, side), "area"))
            codes.append(self.nearest(k, vectors.flatten(0, 1)).view(len(rest), -1))
            rest = rest - self.upsampled(k, codes[-1])
        return codes
