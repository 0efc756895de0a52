"""The binary tokenizer: a convolutional autoencoder whose latent is a sum of sign vectors, one per scale.

The autoencoder is that of ``autoencoder.py`` without attention. Quantisation is multi-scale binary spherical
quantisation (Zhao et al., arXiv 2406.07548; Han et al., Infinity, arXiv 2412.04431, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.grids.grid import Grid, Scale, Schedule
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import placed, token_map, token_rows
from stagevar.families.tokenizers.autoencoder import Decoder, Encoder
from stagevar.families.tokenizers.decoding import decoded


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Shape of the autoencoder and of its code.

    Attributes:
        bits: latent channels D; each has one bit per position and scale.
        fold: side of the square of latent positions that one token describes (1, or 2 for the "patchify" layout).
        stride: pixels per latent position.
        base: channels of the finest level.
        encoder, decoder: channel multipliers from the finest to the coarsest level; None leaves that half out.
        residual_blocks: residual blocks per level of the encoder; a level of the decoder has one more.
    """

    bits: int = 32
    fold: int = 1
    stride: int = 16
    base: int = 128
    encoder: tuple[int, ...] | None = (1, 2, 4, 4, 4)
    decoder: tuple[int, ...] | None = (1, 2, 4, 4, 4)
    residual_blocks: int = 2

    @property
    def token_bits(self) -> int:
        """Bits of one token."""
        return self.bits * self.fold**2

    @property
    def token_pixels(self) -> int:
        """Side in pixels of one token of the final grid."""
        return self.stride * self.fold


class BinaryTokenizer(nn.Module):
    """Pictures to bits and back, in float32.

    Shapes: n pictures, M = h * w tokens of a scale, d bits per token, D latent channels (d = D * fold^2). The bits of a
    token are ordered by channel, then by row and column within its fold.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.base, config.residual_blocks, config.bits
        self.encoder = None if config.encoder is None else Encoder(config.encoder, *shape)
        self.decoder = None if config.decoder is None else Decoder(config.decoder, *shape)

    def latent_grid(self, grid: Grid) -> Grid:
        """The grid of latent positions that a grid of tokens covers."""
        return grid[0] * self.config.fold, grid[1] * self.config.fold

    def fold(self, map_nDHW: Tensor) -> Tensor:
        """(n, D, fold * h, fold * w) to tokens (n, h * w, d)."""
        return token_rows(F.pixel_unshuffle(map_nDHW, self.config.fold))

    def unfold(self, tokens_nMd: Tensor, grid: Grid) -> Tensor:
        """Tokens (n, h * w, d) to (n, D, fold * h, fold * w)."""
        return F.pixel_shuffle(token_map(tokens_nMd, grid), self.config.fold)

    def random_codes(self, at: Scale, generator: torch.Generator) -> Tensor:
        """Evenly distributed bits of one picture at a scale, int64 (1, M, d)."""
        return torch.randint(2, (1, at.tokens, self.config.token_bits), generator=generator)

    def upsampled(
        self,
        bits_nMd: Tensor,
        grid: Grid,
        final: Grid,
        index_nr: Tensor | None = None,
        gain_nr: Tensor | None = None,
    ) -> Tensor:
        """The contribution of one scale's bits to the latent: +-1 / sqrt(D), times each token's gain, resized to the
        final grid (n, D, H, W).

        With ``index_nr`` the bits (n, r, d) belong to these positions, and the others add nothing.
        """
        signs = (2 * bits_nMd.float() - 1) / self.config.bits**0.5
        signs = placed(signs, grid[0] * grid[1], index_nr, gain_nr)
        return resize(self.unfold(signs, grid), self.latent_grid(final), "bilinear")

    def quantize(self, features_nDHW: Tensor, schedule: Schedule) -> tuple[list[Tensor], Tensor]:
        """Residual quantisation, coarse to fine.

        Returns:
            Bits of every scale, int64 (n, M, d), and the sum of all scales (n, D, H, W).
        """
        rest, bits = features_nDHW, []
        for grid in schedule:
            bits.append(self.fold((resize(rest, self.latent_grid(grid), "area") > 0).float()).long())
            rest = rest - self.upsampled(bits[-1], grid, schedule[-1])
        return bits, self.accumulate(bits, schedule)

    def accumulate(self, bits: Sequence[Tensor], schedule: Schedule) -> Tensor:
        """The latent (n, D, H, W) after the first scales: the sum of their bits' contributions."""
        parts = [self.upsampled(b, grid, schedule[-1]) for b, grid in zip(bits, schedule, strict=False)]
        return torch.stack(parts).sum(0)

    def encode(self, pictures: Tensor, schedule: Schedule) -> tuple[list[Tensor], Tensor]:
        """Encode pictures (n, 3, height, width) in [0, 1] and ``quantize`` their features."""
        if self.encoder is None:
            raise ValueError("this tokenizer was built without its encoder")
        return self.quantize(self.encoder(pictures.float() * 2 - 1), schedule)

    def decode(self, latent_nDHW: Tensor) -> Tensor:
        """Pictures (n, 3, height, width) in [0, 1], decoded one by one."""
        if self.decoder is None:
            raise ValueError("this tokenizer was built without its decoder")
        return decoded(self.decoder, latent_nDHW)
