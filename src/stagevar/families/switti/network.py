"""Switti: text to image, by default without attention to earlier scales (Voronov et al., arXiv 2412.01819).

The network follows yandex-research/switti, ``models/switti.py`` and ``models/basic_switti.py``; the tokenizer is in
``tokenizers/vq.py``, the two CLIP text encoders in ``text_encoders/clip.py``, the published names in ``names.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stagevar.engine.contract.block import Block, Condition
from stagevar.engine.contract.model import Defaults
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.grids.rows import Branch, expand_rows
from stagevar.errors import MissingFileError, PromptError
from stagevar.families.blocks import AdaptiveHead, padded_text
from stagevar.families.linear import Linear
from stagevar.families.switti.blocks import CrossAttention, GatedFeedForward, SelfAttention
from stagevar.families.tokenizers.vq import VQConfig, VQTokenizer
from stagevar.families.vq_model import SCALES_512, VQModel, check_schedules

CROP_BASE = 512
"""Short side of the picture sizes in the size and crop condition. Generation always passes the size 512 x 512."""


@dataclass(frozen=True, slots=True)
class SwittiConfig:
    """Shape of the network and its tokenizer; the defaults are the published 512 pixel model.

    Attributes:
        width, depth, heads: channels, blocks and attention heads of the transformer.
        causal: whether a scale also attends to the scales before it (the ``AR`` models).
        schedules: grids of each picture size; all sizes have equally many. The first size is the default.
        guided: first scale with guidance, and the first scale after it at which only the prompt's branch runs.
        smooth_start: first scale with smoothed sampling, if sampling is smoothed.
        tokenizer: the VQ autoencoder.
        text_channels: width of the text states, which concatenate the states of the two encoders.
        pooled_channels: width of the second encoder's summary.
        rotary_range: largest rotary coordinate; both axes of every grid run from 0 to it.
        rotary_base: base of the rotary frequencies.
        eps: epsilon of the norms.
    """

    width: int = 1920
    depth: int = 30
    heads: int = 30
    causal: bool = False
    schedules: tuple[Schedule, ...] = (SCALES_512,)
    guided: tuple[int, int] = (0, 8)
    smooth_start: int = 2
    tokenizer: VQConfig = field(default_factory=VQConfig)
    text_channels: int = 2048
    pooled_channels: int = 1280
    rotary_range: float = 128.0
    rotary_base: float = 10000.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % (4 * self.heads) or self.width % 8:
            raise ValueError(f"width {self.width} is no multiple of 8 and of 4 times {self.heads} heads")
        check_schedules(self.schedules)


class CropEmbedding(nn.Module):
    """Embeds a picture's size and crop: sines and cosines of four numbers at fixed random frequencies, projected."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.zeros(width // 8))
        self.proj = Linear(width, width)

    def forward(self, numbers_R4: Tensor) -> Tensor:
        """Numbers (R, 4) of ``crop_numbers`` to vectors (R, C)."""
        phases = numbers_R4[..., None].float() * self.frequencies * 2 * math.pi
        return self.proj(torch.cat([phases.sin(), phases.cos()], -1).flatten(1))


def crop_numbers(heights: Tensor, widths: Tensor) -> Tensor:
    """Height, width, top and left (R, 4). Height and width are scaled to a short side of 512 pixels and truncated to
    whole numbers; top and left are the corner of the centred square."""
    sides = torch.stack([heights, widths], 1).int()
    scaled = (sides * (CROP_BASE / sides.amin(1))[:, None]).int()
    return torch.cat([scaled, (scaled - CROP_BASE) // 2], 1)


class Switti(VQModel):
    """Draws square pictures of a text. The blocks may be cast to bfloat16; all else stays float32.

    ``text_encoder`` maps prompts to states and summaries; the loader sets it. The null text is the empty prompt.
    """

    family = "switti"
    mixes_codes = True
    mixes_unlikely = True

    def __init__(self, config: SwittiConfig, name: str = "switti", defaults: Defaults | None = None) -> None:
        super().__init__()
        self.name, self.config = name, config
        self.causal, self.groups = config.causal, config.depth
        self.defaults = defaults or Defaults(guidance=6.0)
        self.text_encoder: Callable[[Sequence[str]], Text] | None = None
        width, heads, eps = config.width, config.heads, config.eps
        self.pooled = Linear(config.pooled_channels, width)
        self.crop = CropEmbedding(width)
        self.start = nn.Parameter(torch.zeros(width))
        self.level = nn.Embedding(len(config.schedules[0]), width)
        self.word = Linear(config.tokenizer.channels, width)
        self.blocks = nn.ModuleList(
            Block(
                attention=SelfAttention(width, heads, eps),
                cross=CrossAttention(width, heads, config.text_channels, eps),
                feed_forward=GatedFeedForward(width, eps),
            )
            for _ in range(config.depth)
        )
        self.head = AdaptiveHead(width, config.tokenizer.codes, eps)
        self.tokenizer, self.schedules = VQTokenizer(config.tokenizer), config.schedules

    def encode_text(self, prompts: Sequence[str]) -> Text:
        if self.text_encoder is None:
            raise MissingFileError(f"model {self.name} has no text encoder; pass encoded text, or load the encoder too")
        return self.text_encoder(prompts)

    def blank_text(self, length: int) -> Text:
        return Text((torch.zeros(length, self.config.text_channels),), torch.zeros(1, self.config.pooled_channels))

    def condition(self, text: Text, negative: Text | None = None) -> Condition:
        sides = torch.full((2 * len(text),), CROP_BASE)
        return self.cropped_condition(text, negative, crop_numbers(sides, sides))

    def cropped_condition(self, text: Text, negative: Text | None, crops_R4: Tensor) -> Condition:
        """``condition`` for rows of given size and crop; ``crops_R4`` has the ``crop_numbers`` of the 2n rows."""
        if negative is None or not all(map(len, negative.features)):
            null = self.encode_text([""])
            negative = (negative or null.spread([0], len(text))).filled(null)
        if text.pooled is None or negative.pooled is None:
            raise PromptError(f"model {self.name} reads a summary vector per prompt too; give Text.pooled")
        states, mask = padded_text([*text.features, *negative.features], self.device)
        pooled = self.pooled(torch.cat([text.pooled, negative.pooled]).to(self.device, torch.float32))
        crop = self.crop(crops_R4.to(self.device))
        parts = list(self.blocks.modules())
        return Condition(
            start=pooled + self.start,
            pooled=pooled,
            modulation=tuple(p.vectors(pooled, crop) for p in parts if isinstance(p, SelfAttention)),
            text_kv=tuple(p.keys_values(states) for p in parts if isinstance(p, CrossAttention)),
            text_mask=None if mask.all() else mask,
        )

    def guidance_schedule(self, strength: float, schedule: Schedule) -> tuple[float, ...]:
        """VAR's ramp at the scales with guidance, and 1 at the others."""
        guided = range(*self.config.guided)
        return tuple(w if k in guided else 1.0 for k, w in enumerate(super().guidance_schedule(strength, schedule)))

    def branches(self, schedule: Schedule) -> tuple[Branch, ...]:
        return tuple("both" if k < self.config.guided[1] else "cond" for k in range(len(schedule)))

    def smooth_schedule(self, schedule: Schedule) -> tuple[float | None, ...]:
        """Smoothed sampling begins at ``smooth_start`` and ends with guidance."""
        smoothed = range(self.config.smooth_start, self.config.guided[1])
        return tuple(r if k in smoothed else None for k, r in enumerate(super().smooth_schedule(schedule)))

    def embed(self, latent_nDHW: Tensor, condition: Condition, at: Scale) -> Tensor:
        if at.k == 0:
            return (condition.start + self.level.weight[0])[:, None]
        x_nMC = self.word(self.tokenizer.scale_input(latent_nDHW, at)) + self.level.weight[at.k]
        return expand_rows(x_nMC, condition.rows)

    def rope(self, at: Scale, condition: Condition | None = None) -> Tensor:
        pairs = self.config.width // self.config.heads // 2
        return self.rotary(at.grid, pairs, self.config.rotary_base, self.config.rotary_range)

    def logits(self, x_RMC: Tensor, condition: Condition, at: Scale) -> Tensor:
        return self.head(x_RMC, condition.pooled)
