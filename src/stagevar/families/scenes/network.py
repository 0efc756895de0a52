"""A small text-to-image model: 64 x 64 pictures of the worlds ``stagevar.scenes`` (shipped) and ``stagevar.photos``.

The transformer has the parts of the large families: cosine attention with rotary positions, cross-attention to the
words, and shared adaptive norms. The tokenizer needs no network: it projects 2 x 2 patches on their principal axes and
quantises the residual of each scale with that scale's codebook.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stagevar.engine.contract.block import Block, Condition
from stagevar.engine.contract.model import Defaults, ScaleModel
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Grid, Scale, Schedule
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import expand_rows, token_rows
from stagevar.errors import PromptError, SizeError
from stagevar.families.blocks import AdaptiveHead, CrossAttention, FeedForward, SelfAttention, SharedModulation
from stagevar.families.linear import Linear
from stagevar.families.scenes.config import CHANNELS, EPS, PATCH, ScenesConfig
from stagevar.families.scenes.text import TextEncoder
from stagevar.families.scenes.tokenizer import PatchQuantizer
from stagevar.families.scenes.worlds import WORLDS
from stagevar.photos.reader import Reader


class Scenes(ScaleModel):
    """Draws 64 x 64 pictures of a text in ten scales, 1x1 to 32x32."""

    family = "scenes"
    shared_codes = False
    embedding = ("window", "place")
    cross: type[CrossAttention] = CrossAttention
    """The part of every block that attends to the words."""

    def __init__(self, config: ScenesConfig, name: str = "scenes", defaults: Defaults | None = None) -> None:
        super().__init__()
        self.name, self.config = name, config
        world = WORLDS[config.world]
        self.vocabulary, self.samples, self.suite = world.words, world.samples, config.world
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
        self.place = Linear(32, width, bias=False)
        self.blocks = nn.ModuleList(
            Block(
                attention=SelfAttention(width, config.heads, EPS),
                cross=self.cross(width, config.heads, EPS),
                feed_forward=FeedForward(width, 4 * width, EPS),
            )
            for _ in range(config.depth)
        )
        self.head = AdaptiveHead(width, max(config.codes), EPS)
        self.level_bias = nn.Parameter(torch.zeros(scales, max(config.codes)))
        if world.reader:
            self.reader = Reader()
        self._places: dict[tuple[Grid, torch.device], tuple[Tensor, Tensor]] = {}

    def sizes(self) -> list[Grid]:
        side = PATCH * self.config.grids[-1]
        return [(side, side)]

    def schedule(self, height: int | None = None, width: int | None = None) -> Schedule:
        side = PATCH * self.config.grids[-1]
        if (height or side, width or side) != (side, side):
            raise SizeError(
                f"model {self.name} draws {side}x{side} pictures only, not {width or side}x{height or side}"
            )
        return tuple((g, g) for g in self.config.grids)

    def picture_size(self, schedule: Schedule) -> tuple[int, int]:
        return PATCH * schedule[-1][0], PATCH * schedule[-1][1]

    def encode_text(self, prompts: Sequence[str]) -> Text:
        features = []
        for prompt in prompts:
            try:
                features.append(torch.tensor(self.vocabulary.tokenize(prompt)))
            except ValueError as error:
                raise PromptError(str(error)) from None
        return Text(tuple(features))

    def blank_text(self, length: int) -> Text:
        return self.encode_text(self.samples[:1])

    def condition(self, text: Text, negative: Text | None = None) -> Condition:
        null = torch.tensor(self.vocabulary.null)
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

    def embed(self, latent_nDHW: Tensor, condition: Condition, at: Scale) -> Tensor:
        where = self.place(self._place(at.grid)[0]) + self.level.weight[at.k]
        if at.k == 0:
            return condition.start[:, None] + where
        x = resize(latent_nDHW, at.grid, "area") / self.input_scale[:, None, None]
        return expand_rows(token_rows(self.window(x)).float() + where, condition.rows)

    def rope(self, at: Scale, condition: Condition) -> Tensor:
        return self._place(at.grid)[1]

    @torch.inference_mode(False)  # training may reuse the tables, and autograd refuses inference tensors
    def _place(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Wave features (M, 32) and rotary factors (M, head_dim / 2, 2) of a grid's positions in [0, 1]^2."""
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

    def logits(self, x_RMC: Tensor, condition: Condition, at: Scale) -> Tensor:
        return self.head(x_RMC, condition.pooled).float() + self.level_bias[at.k]

    def code_space(self, k: int) -> tuple[int, tuple[int, ...]]:
        return max(self.config.codes), ()

    def encode(self, pictures: Tensor, schedule: Schedule) -> list[Tensor]:
        return self.tokenizer.encode(pictures)

    def add_codes(
        self,
        latent_nDHW: Tensor,
        codes: Tensor,
        schedule: Schedule,
        k: int,
        index_nr: Tensor | None = None,
        gain_nr: Tensor | None = None,
    ) -> Tensor:
        return latent_nDHW + self.tokenizer.upsampled(k, codes, index_nr, gain_nr)

    def decode(self, latent_nDHW: Tensor) -> Tensor:
        return self.tokenizer.decode(latent_nDHW)
