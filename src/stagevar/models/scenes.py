"""The small text-to-image model that ships with the package: 64 x 64 pictures of the ``stagevar.scenes`` world.

Built from the parts of the large families (cosine attention with rotary positions, cross-attention to the words,
shared adaptive norms) around a tokenizer that needs no network: 2 x 2 patches in their principal axes, quantised
residually with one codebook per scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.errors import PromptError, SizeError
from stagevar.loop.contract import Block, Condition, Defaults, ScaleModel
from stagevar.loop.latent import resize
from stagevar.loop.plan import Grid, Schedule
from stagevar.loop.rows import expand_rows, spread, token_map, token_rows
from stagevar.loop.text import Text
from stagevar.models.blocks import AdaptiveHead, CrossAttention, FeedForward, SelfAttention, SharedModulation
from stagevar.models.family import Family, Size
from stagevar.scenes.captions import MAX_WORDS, VOCABULARY, tokenize

PATCH = 2
CHANNELS = 3 * PATCH**2
EPS = 1e-6


@dataclass(frozen=True, slots=True)
class ScenesConfig:
    """Shape of the network and its tokenizer.

    Attributes:
        width, depth, heads: of the transformer.
        text_depth: layers of the text encoder.
        grids: side of each scale; the last is the latent's grid.
        codes: codebook entries used at each scale.
    """

    width: int = 256
    depth: int = 6
    heads: int = 4
    text_depth: int = 2
    grids: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    codes: tuple[int, ...] = (128, 128, 256, 256, 256, 256, 512, 512, 512, 512)

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1 or self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of 4 times {self.heads} heads")
        if self.depth < 1 or self.text_depth < 1:
            raise ValueError(f"depth {self.depth} and text_depth {self.text_depth} must be 1 or more")
        if len(self.grids) != len(self.codes) or not self.grids:
            raise ValueError(f"{len(self.grids)} grids and {len(self.codes)} codebooks; give one for each scale")
        if any(not isinstance(number, int) or not 0 < number <= 4096 for number in (*self.grids, *self.codes)):
            raise ValueError("grids and codes must be whole numbers between 1 and 4096")
        if list(self.grids) != sorted(self.grids):
            raise ValueError(f"grids {self.grids} must grow")


class PatchQuantizer(nn.Module):
    """Training-free tokenizer: pixel patches in their principal axes, residual vector quantisation over scales."""

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

    def upsampled(self, k: int, codes_nM: Tensor, index_nr: Tensor | None = None) -> Tensor:
        """The codes' contribution to the latent, (n, D, H, W); with ``index`` only at these positions."""
        side, final = self.grids[k], self.grids[-1]
        vectors = self.codebook[k][codes_nM]
        if index_nr is not None:
            vectors = spread(vectors, index_nr, side * side)
        return resize(token_map(vectors, (side, side)), (final, final), "bicubic")

    def encode(self, pictures: Tensor) -> list[Tensor]:
        """Codes (n, M) of every scale."""
        rest, codes = self.features(pictures), []
        for k, side in enumerate(self.grids):
            vectors = token_rows(resize(rest, (side, side), "area"))
            codes.append(self.nearest(k, vectors.flatten(0, 1)).view(len(rest), -1))
            rest = rest - self.upsampled(k, codes[-1])
        return codes


class TextEncoder(nn.Module):
    """A caption's words in order: a small bidirectional transformer, and one summary vector of all positions."""

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        width = config.width
        self.words = nn.Embedding(len(VOCABULARY), width)
        self.positions = nn.Parameter(torch.zeros(MAX_WORDS, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, config.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.text_depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.summary = nn.Linear(MAX_WORDS * width, width)

    def forward(self, words_RT: Tensor) -> tuple[Tensor, Tensor]:
        """Word indices (R, T) to states (R, T, C) and summaries (R, C)."""
        x = self.words(words_RT) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return x, self.summary(x.flatten(1))


class Scenes(ScaleModel):
    """Text to 64 x 64 pictures in ten scales, 1x1 to 32x32."""

    family = "scenes"
    samples = (
        "a red circle to the left of a blue square",
        "three green stars",
        "a yellow ring above a pink cross",
        "a cyan triangle and a red star",
    )
    embedding = ("window", "place")

    def __init__(self, config: ScenesConfig, name: str = "scenes", defaults: Defaults | None = None) -> None:
        super().__init__()
        self.name, self.config = name, config
        self.groups = config.depth
        self.defaults = defaults or Defaults()
        width, scales = config.width, len(config.grids)
        self.tokenizer = PatchQuantizer(config)
        self.text = TextEncoder(config)
        self.modulation = SharedModulation(width, config.depth)
        self.window = nn.Conv2d(CHANNELS, width, 5, padding=2)
        self.register_buffer("input_scale", torch.ones(CHANNELS))
        self.input_scale: Tensor
        self.level = nn.Embedding(scales, width)
        self.place = nn.Linear(32, width, bias=False)
        self.blocks = nn.ModuleList(
            Block(
                attention=SelfAttention(width, config.heads, EPS),
                cross=CrossAttention(width, config.heads, EPS),
                feed_forward=FeedForward(width, 4 * width, EPS),
            )
            for _ in range(config.depth)
        )
        self.head = AdaptiveHead(width, max(config.codes), EPS)
        self.level_bias = nn.Parameter(torch.zeros(scales, max(config.codes)))
        self._places: dict[tuple[Grid, torch.device], tuple[Tensor, Tensor]] = {}

    def sizes(self) -> list[Grid]:
        side = PATCH * self.config.grids[-1]
        return [(side, side)]

    def schedule(self, height: int | None = None, width: int | None = None) -> Schedule:
        side = PATCH * self.config.grids[-1]
        if (height or side, width or side) != (side, side):
            raise SizeError(f"model {self.name} draws {side}x{side} pictures only, not {height}x{width}")
        return tuple((g, g) for g in self.config.grids)

    def picture_size(self, schedule: Schedule) -> tuple[int, int]:
        return PATCH * schedule[-1][0], PATCH * schedule[-1][1]

    def encode_text(self, prompts: Sequence[str]) -> Text:
        features = []
        for prompt in prompts:
            try:
                features.append(torch.tensor(tokenize(prompt)))
            except ValueError as error:
                raise PromptError(str(error)) from None
        return Text(tuple(features))

    def blank_text(self, length: int) -> Text:
        return self.encode_text(["a red circle"])

    def condition(self, text: Text, negative: Text | None = None) -> Condition:
        null = torch.zeros(MAX_WORDS, dtype=torch.int64)
        null[0] = VOCABULARY.index("<null>")
        nulls = [null] * len(text) if negative is None else [f if len(f) else null for f in negative.features]
        return self.words_condition(torch.stack([*text.features, *nulls]).to(self.device))

    def words_condition(self, words_RT: Tensor) -> Condition:
        """The condition of R rows of word indices (R, MAX_WORDS)."""
        states, pooled = self.text(words_RT)
        return Condition(
            start=pooled,
            pooled=pooled,
            modulation=self.modulation(pooled),
            text_kv=tuple(
                part.keys_values(states) for part in self.blocks.modules() if isinstance(part, CrossAttention)
            ),
        )

    def empty_latent(self, n: int, schedule: Schedule) -> Tensor:
        return torch.zeros(n, CHANNELS, *schedule[-1], device=self.device)

    def embed(self, latent_nDHW: Tensor, condition: Condition, schedule: Schedule, k: int) -> Tensor:
        where = self.place(self._place(schedule[k])[0]) + self.level.weight[k]
        if k == 0:
            return condition.start[:, None] + where
        x = resize(latent_nDHW, schedule[k], "area") / self.input_scale[:, None, None]
        return expand_rows(token_rows(self.window(x)).float() + where, condition.rows)

    def rope(self, schedule: Schedule, k: int, condition: Condition) -> Tensor:
        return self._place(schedule[k])[1]

    @torch.inference_mode(False)  # the tables outlive a drawing, and training may follow it
    def _place(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Positions of a grid in [0, 1]^2 as wave features (M, 32) and as rotary factors (M, head_dim / 2, 2)."""
        key = grid, self.device
        if key not in self._places:
            y, x = ((torch.arange(side, device=self.device) + 0.5) / side for side in grid)
            rows = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).view(-1, 2, 1)
            waves = rows * (math.pi / 2 * 2.0 ** torch.arange(8, device=self.device))
            pairs = self.config.width // self.config.heads // 2
            angles = rows * (math.pi * torch.logspace(-1, 4, pairs // 2, base=2, device=self.device))
            features = torch.cat([waves.sin(), waves.cos()], -1).flatten(1)
            angles = angles.flatten(1)
            self._places[key] = features, torch.stack([angles.cos(), angles.sin()], -1)
        return self._places[key]

    def logits(self, x_RMC: Tensor, condition: Condition, k: int) -> Tensor:
        return self.head(x_RMC, condition.pooled).float() + self.level_bias[k]

    def add_codes(
        self, latent_nDHW: Tensor, codes: Tensor, schedule: Schedule, k: int, index_nr: Tensor | None = None
    ) -> Tensor:
        return latent_nDHW + self.tokenizer.upsampled(k, codes, index_nr)

    def decode(self, latent_nDHW: Tensor) -> Tensor:
        return self.tokenizer.decode(latent_nDHW)


SHIPPED = Path(__file__).parents[1] / "scenes" / "weights"

SIZES = {
    "scenes": Size(
        ScenesConfig(),
        licence="Apache-2.0",
        note="64x64 pictures of coloured shapes; runs offline",
        shipped=SHIPPED,
    ),
}

FAMILY = Family(
    name="scenes",
    about="64x64 pictures of coloured shapes, from the weights in the package",
    config=ScenesConfig,
    sizes=SIZES,
    build=Scenes,
)
