"""HART: text to image, with discrete codes at every scale and a continuous residual after the last (arXiv 2410.10812).

The first scale is the prompt's states, padding included. All later scales attend to them, and the last state yields the
code of the 1x1 grid. The network follows mit-han-lab/hart ``modules/models/transformer/hart_transformer_t2i.py``;
its shape is in ``config.py``, its blocks in ``blocks.py``, the residual in ``residual.py``, the tokenizer in
``tokenizers/vq.py``, the text encoder in ``text_encoders/qwen.py``, the published names in ``names.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.contract.model import Defaults
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.grids.rows import expand_rows, spread, token_map
from stagevar.errors import MissingFileError, PromptError
from stagevar.families.blocks import rms_norm
from stagevar.families.hart.blocks import (
    HartBlock,
    LayerModulation,
    RmsHead,
    TableModulation,
    WaveLevel,
    grid_factors,
    text_factors,
)
from stagevar.families.hart.config import HartConfig
from stagevar.families.hart.residual import ResidualHead
from stagevar.families.linear import Linear
from stagevar.families.tokenizers.vq import VQTokenizer
from stagevar.families.vq_model import VQModel

Value = TypeVar("Value")

RESIDUAL_UNIT = 0.6
"""The residual head was trained on residuals divided by 0.6."""


@dataclass(frozen=True)
class HartCondition(Condition):
    """A condition whose ``start`` is the embedded text (R, T, C), because the text is the first scale.

    Attributes:
        positions: (R, T) rotary positions of the text. A picture's positions begin at the text's last position.
    """

    positions: Tensor = field(kw_only=True)


class Hart(VQModel):
    """Draws pictures of a text. The blocks may be cast to bfloat16; all else stays float32.

    ``refined`` says whether the continuous residual is drawn. Pictures without the residual are coarser.
    """

    family = "hart"
    refined = True
    mixes_codes = True

    def __init__(self, config: HartConfig, name: str = "hart", defaults: Defaults | None = None) -> None:
        super().__init__()
        self.name, self.config, self.schedules = name, config, config.schedules
        self.groups = config.depth
        self.defaults = defaults or sampling(len(config.schedules[0]))
        width, depth, eps = config.width, config.depth, config.eps
        norm = nn.RMSNorm(config.text_channels, eps) if config.text_norm else nn.Identity()
        self.context = nn.Sequential(norm, Linear(config.text_channels, width))
        self.level = nn.Embedding(len(config.schedules[0]), width) if config.level_table else WaveLevel(width)
        self.word = Linear(config.tokenizer.channels, width)
        self.modulation = _modulation(config)
        hidden = (int(width * config.feed_forward * 2 / 3) + 255) // 256 * 256
        self.blocks = nn.ModuleList(HartBlock(width, config.heads, hidden, config.cosine, eps) for _ in range(depth))
        self.head = RmsHead(width, config.tokenizer.codes, eps)
        self.residual_norm = nn.RMSNorm(width, eps)
        self.residual_head = ResidualHead(
            config.tokenizer.channels, width, config.residual_width, config.residual_depth, config.residual_steps
        )
        self.tokenizer = VQTokenizer(config.tokenizer)

    def guidance_schedule(self, strength: float, schedule: Schedule) -> tuple[float, ...]:
        """VAR's ramp, except that the last scale has the same weight as the scale before it."""
        return _last_repeated(super().guidance_schedule(strength, schedule))

    def smooth_schedule(self, schedule: Schedule) -> tuple[float | None, ...]:
        return _last_repeated(super().smooth_schedule(schedule))

    def encode_text(self, prompts: Sequence[str]) -> Text:
        if self.text_encoder is None:
            raise MissingFileError(f"model {self.name} has no text encoder; pass encoded text, or load the encoder too")
        return self.text_encoder(prompts)

    def blank_text(self, length: int) -> Text:
        full = self.config.text_length
        return Text((torch.zeros(full, self.config.text_channels),), masks=(torch.arange(full) < length,))

    def condition(self, text: Text, negative: Text | None = None) -> HartCondition:
        """See ``ScaleModel.condition``. The null text is zeros; its first position counts as text, the others as
        padding.

        Raises:
            PromptError: a text does not have exactly ``text_length`` states.
        """
        length = self.config.text_length
        null = Text((torch.zeros(length, self.config.text_channels),), masks=(torch.arange(length) == 0,))
        nulls = null.spread([0], len(text)) if negative is None else _with_masks(negative)
        rows = [_with_masks(text), nulls.filled(null)]
        for states in (states for part in rows for states in part.features):
            if len(states) != length:
                raise PromptError(
                    f"the text has {len(states)} states; model {self.name} reads exactly {length}, padding included"
                )
        states = torch.stack([states for part in rows for states in part.features]).to(self.device, torch.float32)
        mask = torch.stack([mask for part in rows for mask in part.masks or ()]).to(self.device, torch.bool)
        context = self.context(states)
        return HartCondition(
            start=context + self.level(torch.full((), 0, device=self.device)),
            pooled=context.amax(1),
            modulation=() if self.modulation is None else self.modulation(context, mask),
            positions=mask.long().cumsum(1) - 1,
        )

    def rows(self, at: Scale) -> int:
        return self.config.text_length if at.k == 0 else super().rows(at)

    def embed(self, latent_nDHW: Tensor, condition: Condition, at: Scale) -> Tensor:
        if at.k == 0:
            return condition.start
        level = self.level(torch.full((), at.k, device=self.device))
        return expand_rows(self.word(self.tokenizer.scale_input(latent_nDHW, at)) + level, condition.rows)

    def rope(self, at: Scale, condition: Condition) -> Tensor:
        """(R, ``rows``, D, 2): HART has one cosine and sine per channel, and not one per pair of channels."""
        assert isinstance(condition, HartCondition)
        channels, base = self.config.width // self.config.heads, self.config.rotary_base
        if at.k == 0:
            return text_factors(condition.positions, channels, base)
        return grid_factors(at.grid, at.final, condition.positions[:, -1], channels, base)

    def logits(self, x_RMC: Tensor, condition: Condition, at: Scale) -> Tensor:
        return self.head(x_RMC, condition.pooled)

    def add_codes(
        self,
        latent_nDHW: Tensor,
        codes: Tensor,
        schedule: Schedule,
        k: int,
        index_nr: Tensor | None = None,
        gain_nr: Tensor | None = None,
    ) -> Tensor:
        at = Scale(schedule, k)
        return latent_nDHW + self.tokenizer.upsampled(codes, at, index_nr, gain_nr, phi=not at.last)

    def residual(self, x_RMC: Tensor, codes: Tensor, drawing: Drawing) -> Tensor | None:
        """The continuous residual, drawn only at the final scale, from its hidden states and codes. Mixed codes count
        as their likeliest code."""
        if not drawing.at.last or not self.refined:
            return None
        head, (h, w) = self.residual_head, drawing.at.grid
        states = self.residual_condition(x_RMC, codes.argmax(-1) if codes.is_floating_point() else codes)
        numbers = drawing.normals(head.steps * head.channels, x_RMC.device).unflatten(-1, (head.steps, head.channels))
        vectors = RESIDUAL_UNIT * head.draw(states, numbers, drawing.guidance)
        return token_map(vectors if drawing.index is None else spread(vectors, drawing.index, h * w), (h, w))

    def finishing(self, at: Scale) -> tuple[tuple[nn.Module, int], ...]:
        if not at.last or not self.refined:
            return ()
        head = self.residual_head
        every_step = (head.input, head.layers, head.modulation, head.output)
        return *((module, head.steps) for module in every_step), (head.condition, 1), (self.word, 1)

    def residual_condition(self, x_RMC: Tensor, codes_nM: Tensor) -> Tensor:
        """Input of the residual head, (R, M, C): the hidden states plus the embedded codes, normalised."""
        words = self.word(self.tokenizer.embed(codes_nM))
        return rms_norm(x_RMC + expand_rows(words, len(x_RMC)), self.residual_norm)


def _modulation(config: HartConfig) -> TableModulation | LayerModulation | None:
    if config.modulation == "table":
        return TableModulation(config.width, config.depth)
    return LayerModulation(config.width, config.depth, config.pooling) if config.modulation == "layer" else None


def _with_masks(text: Text) -> Text:
    if text.masks is not None:
        return text
    return replace(text, masks=tuple(torch.ones(len(states), dtype=torch.bool) for states in text.features))


def _last_repeated(ramp: tuple[Value, ...]) -> tuple[Value, ...]:
    return (*ramp[:-1], *ramp[-2:-1]) if len(ramp) > 1 else ramp


def sampling(scales: int) -> Defaults:
    """The authors' sampling settings, from their ``sample.py``. Only top-k is set in the code of their network."""
    return Defaults(guidance=4.5, top_k=tuple(600 if k < 7 else 300 for k in range(scales)), smooth=True)
