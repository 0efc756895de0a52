"""The text encoder of the shipped model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stagevar.families.linear import Linear
from stagevar.families.scenes.config import EPS, ScenesConfig
from stagevar.families.scenes.worlds import WORLDS
from stagevar.scenes.words import MAX_WORDS


class TextEncoder(nn.Module):
    """A small bidirectional transformer over a caption's words. A projection of all states gives one summary vector."""

    def __init__(self, config: ScenesConfig) -> None:
        super().__init__()
        width = config.width
        self.words = nn.Embedding(len(WORLDS[config.world].words.vocabulary), width)
        self.positions = nn.Parameter(torch.zeros(MAX_WORDS, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, config.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.text_depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.summary = Linear(MAX_WORDS * width, width)

    def forward(self, words_RT: Tensor) -> tuple[Tensor, Tensor]:
        """Word indices (R, T) to states (R, T, C) and summaries (R, C)."""
        x = self.words(words_RT) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return x, self.summary(x.flatten(1))
