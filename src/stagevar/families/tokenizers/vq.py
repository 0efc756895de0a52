"""The vector-quantising tokenizer of VAR, STAR, Switti and HART: a latent is a sum of codebook vectors, scale by scale.

Every scale's vectors are resized to the final grid; a convolution then corrects the loss of resizing (Tian et al., VAR,
arXiv 2404.02905, section 3.2 and algorithm 1; FoundationVision/VAR ``models/quant.py`` and ``models/vqvae.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stagevar.engine.grids.grid import Scale, Schedule, scales
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import placed, token_map, token_rows
from stagevar.families.tokenizers.autoencoder import Decoder, Encoder, conv
from stagevar.families.tokenizers.decoding import decoded


@dataclass(frozen=True, slots=True)
class VQConfig:
    """Shape of the autoencoder and of its code; the defaults are the published ``vae_ch160v4096z32``.

    Attributes:
        base: channels of the finest level.
        multipliers: channels of each level as multiples of ``base``, from the finest to the coarsest level.
        residual_blocks: residual blocks per level of the encoder; a level of the decoder has one more.
        channels: latent channels D.
        codes: number V of vectors in the codebook.
        convolutions: number of convolutions that the scales share.
        blend: share r in ``(1 - r) * x + r * convolution(x)``.
        encoder: whether the tokenizer has its encoder. Drawing needs only the decoder.
    """

    base: int = 160
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    residual_blocks: int = 2
    channels: int = 32
    codes: int = 4096
    convolutions: int = 4
    blend: float = 0.5
    encoder: bool = False

    def __post_init__(self) -> None:
        counts = self.base, *self.multipliers, self.residual_blocks, self.channels, self.codes, self.convolutions
        if not self.multipliers or min(counts) < 1:
            raise ValueError("a tokenizer needs levels, and 1 or more channels, blocks, codes and convolutions")

    @property
    def stride(self) -> int:
        """Pixels per latent position."""
        return 2 ** (len(self.multipliers) - 1)


def convolution_of(scale: int, scales: int, count: int) -> int:
    """The index of the shared convolution, out of ``count``, that a scale uses.

    The convolutions have evenly spaced ticks in [0, 1]; the scale uses the convolution whose tick is nearest to
    scale / (scales - 1). Ten scales and four convolutions have exact ties, which rounding in float64 decides, as in the
    published code.
    """
    margin = 1 / 3 / count if count == 4 else 1 / 2 / count
    ticks = np.linspace(margin, 1 - margin, count)
    return int(np.argmin(np.abs(ticks - scale / max(scales - 1, 1))))


class VQTokenizer(nn.Module):
    """Pictures to codes and back, in float32.

    Shapes: n pictures, M = h * w tokens of a scale, D latent channels, V codes, (H, W) the final grid of the latent.
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        D = config.channels
        shape = config.multipliers, config.base, config.residual_blocks, D
        self.encoder = Encoder(*shape, attention=True) if config.encoder else None
        self.quant_conv = conv(D, D) if config.encoder else None
        self.codebook = nn.Embedding(config.codes, D)
        self.convolutions = nn.ModuleList(conv(D, D) for _ in range(config.convolutions))
        self.post_quant_conv = conv(D, D)
        self.decoder = Decoder(*shape, attention=True)

    def embed(self, codes: Tensor) -> Tensor:
        """Vectors (n, M, D) of codes, int64 (n, M), or their mixtures for weights over the codes, float (n, M, V)."""
        if not codes.is_floating_point():
            return self.codebook(codes)
        return torch.stack([weights @ self.codebook.weight for weights in codes])

    def random_codes(self, at: Scale, generator: torch.Generator) -> Tensor:
        """Evenly distributed codes of one picture at a scale, int64 (1, M)."""
        return torch.randint(self.config.codes, (1, at.tokens), generator=generator)

    def upsampled(
        self,
        codes: Tensor,
        at: Scale,
        index_nr: Tensor | None = None,
        gain_nr: Tensor | None = None,
        *,
        phi: bool = True,
    ) -> Tensor:
        """The contribution of a scale's codes to the latent, (n, D, H, W).

        Args:
            codes: int64 (n, M), or weights over the codebook, float (n, M, V).
            index_nr: raster positions of codes (n, r) or (n, r, V); at the other positions the vector is zero.
            gain_nr: factors of the vectors, (n, M) or (n, r); None is 1.
            phi: whether the scale's convolution is applied.
        """
        vectors = placed(self.embed(codes), at.tokens, index_nr, gain_nr)
        x = resize(token_map(vectors, at.grid), at.final, "bicubic")
        return self.refine(x, at.k, len(at.schedule)) if phi else x

    def refine(self, x_nDHW: Tensor, scale: int, scales: int) -> Tensor:
        """The scale's convolution, blended with its input. It runs picture by picture: several at once would take
        another kernel, which rounds differently."""
        r = self.config.blend
        convolution = self.convolutions[convolution_of(scale, scales, self.config.convolutions)]
        return (1 - r) * x_nDHW + r * torch.cat([convolution(x) for x in x_nDHW.contiguous().split(1)])

    def scale_input(self, latent_nDHW: Tensor, at: Scale) -> Tensor:
        """Input of a scale after the first, (n, M, D): the latent resized to the scale's grid."""
        return token_rows(resize(latent_nDHW, at.grid, "area"))

    def features(self, pictures: Tensor) -> Tensor:
        """Pictures (n, 3, height, width) in [0, 1] to features (n, D, H, W)."""
        if self.encoder is None or self.quant_conv is None:
            raise ValueError("this tokenizer was built without its encoder")
        return self.quant_conv(self.encoder(pictures.float() * 2 - 1))

    def quantize(self, features_nDHW: Tensor, schedule: Schedule) -> tuple[list[Tensor], list[Tensor]]:
        """Residual quantisation, coarse to fine: the nearest vector at every position of every scale.

        Returns:
            Codes, int64 (n, M), and the latent (n, D, H, W) after each scale.
        """
        rest, latent = features_nDHW, torch.zeros_like(features_nDHW)
        codes, latents = [], []
        for at in scales(schedule):
            codes.append(self.nearest(self.scale_input(rest, at)))
            part = self.upsampled(codes[-1], at)
            rest, latent = rest - part, latent + part
            latents.append(latent)
        return codes, latents

    def nearest(self, vectors_nMD: Tensor) -> Tensor:
        """The codes int64 (n, M) whose vectors are nearest in Euclidean distance."""
        table = self.codebook.weight
        return (table.square().sum(1) - 2 * vectors_nMD @ table.T).argmin(-1)

    def encode(self, pictures: Tensor, schedule: Schedule) -> list[Tensor]:
        """Codes, int64 (n, M) per scale, of pictures (n, 3, height, width) in [0, 1]."""
        return self.quantize(self.features(pictures), schedule)[0]

    def decode(self, latent_nDHW: Tensor) -> Tensor:
        """Pictures (n, 3, height, width) in [0, 1], decoded one by one."""
        return decoded(self.decoder, latent_nDHW, self.post_quant_conv)
