"""Infinity draws pictures of a text; every token is a vector of bits (Han et al., arXiv 2412.04431).

The network follows FoundationVision/Infinity, ``models/infinity.py`` and ``models/basic.py``; the tokenizer is in
``tokenizers/bsq.py``, the picture sizes in ``grids.py``, the names of published checkpoints in ``names.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.contract.block import Block, Condition
from stagevar.engine.contract.model import Defaults, ScaleModel
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Grid, Scale, Schedule
from stagevar.engine.grids.latent import resize
from stagevar.engine.grids.rows import expand_rows
from stagevar.errors import MissingFileError, PromptError, SizeError
from stagevar.families.blocks import (
    AdaptiveHead,
    CrossAttention,
    FeedForward,
    SelfAttention,
    SharedModulation,
    merge_heads,
    padded_text,
    split_heads,
)
from stagevar.families.infinity.grids import SCHEDULES, budget_schedule, nearest_sizes, reference_grid, rotary_table
from stagevar.families.infinity.names import CheckpointNames
from stagevar.families.linear import Linear
from stagevar.families.tokenizers.bsq import BinaryTokenizer, TokenizerConfig


@dataclass(frozen=True, slots=True)
class InfinityConfig:
    """Shape of the network and its tokenizer.

    Attributes:
        width, depth, heads: channels, blocks and attention heads of the transformer.
        chunks: number of equal groups of blocks. Checkpoints name blocks by group, and accelerators may reduce tokens
            group by group.
        tokenizer: the binary autoencoder.
        text_channels: width of the text encoder's states.
        text_length: rows of the learned null text, and therefore the most text tokens that a prompt may have.
        feed_forward: hidden width of the perceptrons as a multiple of ``width``; it is rounded to a multiple of
            256.
        levels: rows of the scale embedding.
        eps: epsilon of all norms.
        budget: pixel budget of the default picture size, a key of ``grids.BUDGETS``.
        rotary_reference: grid that rotary positions are scaled to; None takes ``grids.reference_grid`` of the schedule.
    """

    width: int
    depth: int
    heads: int
    chunks: int = 4
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    text_channels: int = 2048
    text_length: int = 512
    feed_forward: float = 4.0
    levels: int = 15
    eps: float = 1e-6
    budget: str = "1M"
    rotary_reference: Grid | None = None

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of 4 times {self.heads} heads")
        if self.chunks < 1 or self.depth % self.chunks:
            raise ValueError(f"{self.depth} blocks cannot be divided into {self.chunks} chunks")


SHARP = Defaults(guidance=3.0, temperature=0.5, top_p=0.97)


class TextPool(nn.Module):
    """Pools a text into one vector: a learned query attends to the text's states. The keys have no bias."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.heads = channels // (128 if width <= 4096 else 64)
        self.query = nn.Parameter(torch.zeros(self.heads, width // self.heads))
        self.kv = Linear(channels, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = Linear(width, width)

    def forward(self, text_RTC: Tensor, mask_RT: Tensor) -> Tensor:
        """Texts (R, T, text channels) to vectors (R, C); the mask is True at real text."""
        k, v = self.kv(text_RTC).chunk(2, -1)
        k, v = split_heads(k, self.heads), split_heads(v + self.v_bias, self.heads)
        query = self.query[None, :, None].expand(len(k), -1, -1, -1)
        out = F.scaled_dot_product_attention(query, k, v, mask_RT[:, None, None])
        return self.proj(merge_heads(out)[:, 0])


class Infinity(ScaleModel):
    """Draws pictures of a text, in 60 sizes and 7 to 13 scales. The blocks may be cast to bfloat16; all else stays
    float32."""

    family = "infinity"

    def __init__(self, config: InfinityConfig, name: str = "infinity", defaults: Defaults | None = None) -> None:
        super().__init__()
        self.name, self.config = name, config
        self.groups = config.chunks
        self.defaults = defaults or SHARP
        width, eps = config.width, config.eps
        self.text_norm = nn.RMSNorm(config.text_channels, eps)
        self.null_text = nn.Parameter(torch.zeros(config.text_length, config.text_channels))
        self.pool = TextPool(config.text_channels, width)
        self.context = nn.Sequential(
            Linear(config.text_channels, width), nn.GELU(approximate="tanh"), Linear(width, width)
        )
        self.start = nn.Parameter(torch.zeros(width))
        self.level = nn.Embedding(config.levels, width)
        self.word = Linear(config.tokenizer.token_bits, width)
        self.modulation = SharedModulation(width, config.depth)
        hidden = round(config.feed_forward * width / 256) * 256
        self.blocks = nn.ModuleList(
            Block(
                attention=SelfAttention(width, config.heads, eps),
                cross=CrossAttention(width, config.heads, eps),
                feed_forward=FeedForward(width, hidden, eps),
            )
            for _ in range(config.depth)
        )
        self.head = AdaptiveHead(width, 2 * config.tokenizer.token_bits, eps)
        self.tokenizer = BinaryTokenizer(config.tokenizer)
        self._rotary: dict[tuple[Grid, Grid, torch.device], Tensor] = {}

    @property
    def checkpoint_names(self) -> CheckpointNames:
        """Maps the names in a published checkpoint of this size to ours."""
        halves = tuple(half for half in ("encoder", "decoder") if getattr(self.tokenizer, half) is not None)
        return CheckpointNames(self.config.depth // self.config.chunks, self.config.text_length, halves)

    def sizes(self) -> list[Grid]:
        return [self.picture_size(schedule) for schedule in SCHEDULES.values()]

    def schedule(self, height: int | None = None, width: int | None = None) -> Schedule:
        unit = self.config.tokenizer.token_pixels
        default = self.picture_size(budget_schedule(self.config.budget))
        h, w = default[0] if height is None else height, default[1] if width is None else width
        if h % unit or w % unit or (h // unit, w // unit) not in SCHEDULES:
            near = ", ".join(f"{b}x{a}" for a, b in nearest_sizes(max(h, 1), max(w, 1), unit))
            raise SizeError(f"model {self.name} draws no {w}x{h} pictures (width x height); nearest are {near}")
        return SCHEDULES[h // unit, w // unit]

    def picture_size(self, schedule: Schedule) -> tuple[int, int]:
        unit = self.config.tokenizer.token_pixels
        return unit * schedule[-1][0], unit * schedule[-1][1]

    def encode_text(self, prompts: Sequence[str]) -> Text:
        if self.text_encoder is None:
            raise MissingFileError(f"model {self.name} has no text encoder; pass encoded text, or load the encoder too")
        return self.text_encoder(prompts)

    def blank_text(self, length: int) -> Text:
        return Text((torch.zeros(min(length, self.config.text_length), self.config.text_channels),))

    def condition(self, text: Text, negative: Text | None = None) -> Condition:
        """See ``ScaleModel.condition``. Without a negative prompt, the null text is as many rows of the learned null
        text as the prompt has tokens.

        Raises:
            PromptError: a prompt has no text tokens, or more than ``text_length``.
        """
        limit = self.config.text_length
        for states in text.features:
            if not 0 < len(states) <= limit:
                raise PromptError(f"the prompt has {len(states)} text tokens; model {self.name} takes 1 to {limit}")
        nulls = [self.null_text[: len(states)] for states in text.features]
        if negative is not None:
            nulls = [own if len(own) else null for own, null in zip(negative.features, nulls, strict=True)]
        pooled, context, mask = self.read_text([*text.features, *nulls])
        return Condition(
            start=pooled + self.start,
            pooled=pooled,
            modulation=self.modulation(pooled),
            text_kv=tuple(p.keys_values(context) for p in self.blocks.modules() if isinstance(p, CrossAttention)),
            text_mask=None if mask.all() else mask,
        )

    def read_text(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """R texts (T_i, text channels) to pooled vectors (R, C), states for cross-attention (R, T, C) and a mask (R, T)
        that is True at real text; T is the longest T_i."""
        padded, mask = padded_text(features, self.device)
        states = self.text_norm(padded)
        return self.pool(states, mask), self.context(states), mask

    def empty_latent(self, n: int, schedule: Schedule) -> Tensor:
        return torch.zeros(n, self.config.tokenizer.bits, *self.tokenizer.latent_grid(schedule[-1]), device=self.device)

    def scale_input(self, latent_nDHW: Tensor, at: Scale) -> Tensor:
        """Input of scale k > 0, (n, M, d): the latent resized to the scale's grid, then folded into tokens."""
        return self.tokenizer.fold(resize(latent_nDHW, self.tokenizer.latent_grid(at.grid), "bilinear"))

    def embed(self, latent_nDHW: Tensor, condition: Condition, at: Scale) -> Tensor:
        if at.k == 0:
            return (condition.start + self.level.weight[0])[:, None]
        x_nMC = self.word(self.scale_input(latent_nDHW, at)) + self.level.weight[at.k]
        return expand_rows(x_nMC, condition.rows)

    @torch.inference_mode(False)  # training may reuse the tables, and autograd refuses inference tensors
    def rope(self, at: Scale, condition: Condition) -> Tensor:
        reference = self.config.rotary_reference or reference_grid(at.schedule)
        key = at.grid, reference, self.device
        if key not in self._rotary:
            self._rotary[key] = rotary_table(*key[:2], self.config.width // self.config.heads // 2, self.device)
        return self._rotary[key]

    def logits(self, x_RMC: Tensor, condition: Condition, at: Scale) -> Tensor:
        return self.head(x_RMC, condition.pooled).unflatten(-1, (-1, 2))

    def code_space(self, k: int) -> tuple[int, tuple[int, ...]]:
        return 2, (self.config.tokenizer.token_bits,)

    @property
    def encodes(self) -> bool:
        return self.tokenizer.encoder is not None

    def encode(self, pictures: Tensor, schedule: Schedule) -> list[Tensor]:
        return self.tokenizer.encode(pictures, schedule)[0]

    def add_codes(
        self,
        latent_nDHW: Tensor,
        codes: Tensor,
        schedule: Schedule,
        k: int,
        index_nr: Tensor | None = None,
        gain_nr: Tensor | None = None,
    ) -> Tensor:
        return latent_nDHW + self.tokenizer.upsampled(codes, schedule[k], schedule[-1], index_nr, gain_nr)

    def decode(self, latent_nDHW: Tensor) -> Tensor:
        return self.tokenizer.decode(latent_nDHW)
