"""Small networks with random weights: every path of a family in milliseconds, for tests and demonstrations."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from stagevar.errors import PromptError, UnknownModelError
from stagevar.loop.contract import Defaults, ScaleModel
from stagevar.loop.plan import Schedule
from stagevar.loop.text import Text
from stagevar.models.bsq import TokenizerConfig
from stagevar.models.hart import Hart
from stagevar.models.hart_config import HartConfig
from stagevar.models.infinity import Infinity, InfinityConfig
from stagevar.models.scenes import Scenes, ScenesConfig
from stagevar.models.star import Star, StarConfig
from stagevar.models.switti import Switti, SwittiConfig
from stagevar.models.var import VAR, VARConfig
from stagevar.models.vq import VQConfig
from stagevar.models.vq_model import squares


def tiny(family: str, seed: int = 0, **changes: Any) -> ScaleModel:
    """A random network of a family. Pictures are noise, yet every prompt, seed and plan draws another one.

    Args:
        family: one of the catalogue's.
        seed: of the weights.
        changes: fields of the family's config to replace.

    Raises:
        UnknownModelError: no tiny network of that family.
    """
    if family not in _BUILDERS:
        raise UnknownModelError(f"no tiny network of family {family!r}; there is {', '.join(_BUILDERS)}")
    model = _BUILDERS[family](changes)
    randomize(model, seed)
    return model.eval()


def randomize(model: nn.Module, seed: int) -> None:
    """Normal weights that keep the size of their input, gains around 1, other vectors small; then freeze them."""
    generator = torch.Generator().manual_seed(seed)
    gains = {id(m.weight) for m in model.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm)}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if id(parameter) in gains:
            value = 1 + 0.1 * noise
        elif name.endswith("log_temperature"):
            value = math.log(4.0) + 0.1 * noise
        elif parameter.dim() == 1:
            value = 0.1 * noise
        else:
            value = noise / math.sqrt(parameter[0].numel())
        parameter.data = value
    model.requires_grad_(False)


class WordHash:
    """A text encoder without training: one random vector per word, the same for the same word.

    With ``summary`` channels it behaves as CLIP does: a start and an end row, even for the empty prompt, and a summary
    vector of the whole.
    """

    def __init__(self, channels: int, limit: int, summary: int = 0) -> None:
        self.channels, self.limit, self.summary = channels, limit, summary

    def __call__(self, prompts: Sequence[str]) -> Text:
        """Per prompt (words, channels).

        Raises:
            PromptError: no words, or more than the limit.
        """
        features = []
        for prompt in prompts:
            words = ["<start>", *prompt.lower().split(), "<end>"] if self.summary else prompt.lower().split()
            if not 0 < len(words) <= self.limit:
                raise PromptError(f"the prompt has {len(words)} words; a tiny model takes 1 to {self.limit}")
            features.append(torch.stack([self._vector(word, self.channels) for word in words]))
        pooled = [self._vector(f"summary of {prompt}", self.summary) for prompt in prompts]
        return Text(tuple(features), torch.stack(pooled) if self.summary else None)

    @staticmethod
    def _vector(word: str, channels: int) -> torch.Tensor:
        return torch.randn(channels, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


class PaddedWords(WordHash):
    """As language models' tokenizers pad: every prompt has ``limit`` states, those behind its words are padding."""

    def __call__(self, prompts: Sequence[str]) -> Text:
        features, masks, padding = [], [], self._vector("<pad>", self.channels)
        for states in super().__call__(prompts).features:
            features.append(torch.cat([states, padding.expand(self.limit - len(states), -1)]))
            masks.append(torch.arange(self.limit) < len(states))
        return Text(tuple(features), masks=tuple(masks))


SCHEDULES: tuple[Schedule, ...] = (
    squares(1, 2, 3, 4, 6, 8),
    ((1, 1), (2, 1), (3, 2), (5, 3), (6, 4), (9, 6)),
    ((1, 1), (1, 2), (2, 3), (3, 5), (4, 8), (6, 12)),
)
"""Square, 3:2 and 1:2 pictures of the families on the VQ tokenizer."""

VQ = VQConfig(base=32, multipliers=(1, 2), residual_blocks=1, channels=8, codes=64)
"""Their tokenizer."""


def noise_text(model: ScaleModel, length: int) -> Callable[[Sequence[str]], Text]:
    """A text encoder whose every prompt is the same random text, as ``blank_text`` of the model shapes it."""
    blank = model.blank_text(length)
    features = tuple(torch.randn(states.shape) for states in blank.features)
    pooled = None if blank.pooled is None else torch.randn(blank.pooled.shape)

    def encode(prompts: Sequence[str]) -> Text:
        n = len(prompts)
        masks = None if blank.masks is None else blank.masks * n
        return Text(features * n, None if pooled is None else pooled.repeat(n, 1), masks)

    return encode


def _infinity(changes: dict[str, Any]) -> Infinity:
    tokenizer = TokenizerConfig(bits=8, stride=2, base=32, encoder=(1, 2), decoder=(1, 2), residual_blocks=1)
    config = InfinityConfig(
        width=64, depth=4, heads=2, chunks=2, tokenizer=tokenizer, text_channels=128, text_length=16, budget="0.06M"
    )
    model = Infinity(replace(config, **changes), name="infinity-tiny")
    model.text_encoder = WordHash(model.config.text_channels, model.config.text_length)
    return model


def _star(changes: dict[str, Any]) -> Star:
    config = StarConfig(width=64, depth=3, heads=2, schedules=SCHEDULES, tokenizer=VQ, text_channels=24)
    model = Star(replace(config, **changes), "star-tiny", Defaults(guidance=4.5, top_k=40, top_p=0.8))
    model.text_encoder = WordHash(model.config.text_channels, 18, model.config.text_channels)
    return model


def _switti(changes: dict[str, Any]) -> Switti:
    config = SwittiConfig(
        width=64,
        depth=3,
        heads=2,
        schedules=SCHEDULES,
        guided=(0, 4),
        smooth_start=1,
        tokenizer=VQ,
        text_channels=24,
        pooled_channels=16,
    )
    late = (1.0, 1.0, 1.0, 1.0, 0.1, 0.1)
    defaults = Defaults(guidance=6.0, temperature=late, top_k=40, top_p=0.95, smooth=True)
    model = Switti(replace(config, **changes), "switti-tiny", defaults)
    model.text_encoder = WordHash(model.config.text_channels, 18, model.config.pooled_channels)
    return model


def _var(changes: dict[str, Any]) -> VAR:
    config = VARConfig(width=64, depth=3, heads=2, schedules=SCHEDULES, tokenizer=VQ)
    return VAR(replace(config, **changes), "var-tiny", Defaults(guidance=4.0, top_k=40, top_p=0.95))


def _hart(changes: dict[str, Any]) -> Hart:
    config = HartConfig(
        width=64,
        depth=3,
        heads=4,
        schedules=SCHEDULES,
        tokenizer=VQ,
        text_channels=24,
        text_length=12,
        cosine=True,
        residual_width=32,
        residual_depth=2,
        residual_steps=4,
    )
    model = Hart(replace(config, **changes), name="hart-tiny")
    model.text_encoder = PaddedWords(model.config.text_channels, model.config.text_length)
    return model


def _scenes(changes: dict[str, Any]) -> Scenes:
    config = ScenesConfig(width=32, depth=3, heads=2, text_depth=1, grids=(1, 2, 3, 5, 6), codes=(8, 8, 16, 16, 16))
    model = Scenes(replace(config, **changes), name="scenes-tiny")
    generator = torch.Generator().manual_seed(0)
    model.tokenizer.codebook.copy_(0.3 * torch.randn(model.tokenizer.codebook.shape, generator=generator))
    return model


_BUILDERS: dict[str, Callable[[dict[str, Any]], ScaleModel]] = {
    "hart": _hart,
    "infinity": _infinity,
    "scenes": _scenes,
    "star": _star,
    "switti": _switti,
    "var": _var,
}
