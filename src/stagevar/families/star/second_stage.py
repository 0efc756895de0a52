"""STAR's second stage reveals the tokens of a large scale in rounds; each round reads the tokens of earlier rounds.

Without a second stage, a scale's tokens are drawn independently of one another, so neighbours may contradict each
other. The second stage is three more blocks, which read the trunk's last hidden states and the tokens revealed so far
(Ma et al., arXiv 2406.10797v3, "causal-driven stable sampling"; Davinci-XLab/STAR-T2I ``models/var_drop.py`` with
``w_mask`` and ``sample_version="1024"``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.engine.contract.block import Block, BlockContext, Condition
from stagevar.engine.contract.drawing import Drawing, Sampling
from stagevar.engine.contract.sampling import draw, keep_likely
from stagevar.engine.grids.rows import expand_rows
from stagevar.engine.grids.sent import sent
from stagevar.families.blocks import FeedForward, SelfAttention, layer_norm
from stagevar.families.linear import Linear


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """The scales whose tokens are revealed in rounds, and the rounds.

    Attributes:
        first: index of the first scale whose tokens are revealed in rounds.
        rounds, last_rounds: number of rounds at each scale before the last, and at the last scale.
        early: number of first rounds that reveal tokens in random order. At every scale but the last, these rounds
            also sample from the trunk's logits instead of the second stage's, and additionally reveal the most
            confident tokens.
        depth: number of blocks of the second stage.
    """

    first: int = 9
    rounds: int = 8
    last_rounds: int = 15
    early: int = 5
    depth: int = 3

    def __post_init__(self) -> None:
        if min(self.first, self.depth) < 1 or min(self.rounds, self.last_rounds) < 2 or self.early < 0:
            raise ValueError("a second stage needs first and depth of 1 or more, 2 or more rounds, early of 0 or more")

    def passes(self, last: bool) -> int:
        """How often the second stage runs at a scale."""
        return self.last_rounds if last else max(self.rounds - self.early, 0)


def round_sizes(rounds: int, tokens: int) -> list[int]:
    """The number of tokens that each round reveals. It grows along an arc cosine, from one token in the first round;
    the last round reveals all that remain."""
    share = torch.arccos(torch.linspace(1, 0, rounds)) / (math.pi * 0.5)
    sizes: list[int] = (share / share.sum() * tokens).round().int().clamp(min=1).tolist()
    return [*sizes[:-1], tokens - sum(sizes[:-1])]


class SecondStage(nn.Module):
    """The second stage's blocks. They have no cross-attention and no cache of earlier scales.

    Shapes: R rows (both branches), r processed tokens, C width, D latent channels, V codes.
    """

    def __init__(
        self,
        config: SamplerConfig,
        width: int,
        heads: int,
        hidden: int,
        text: int,
        channels: int,
        codes: int,
        scales: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.config, self.eps = config, eps
        self.summary = Linear(text, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.level = nn.Embedding(scales, width)
        self.word = Linear(channels, width)
        self.mix = Linear(2 * width, width)
        self.blocks = nn.ModuleList(
            Block(attention=SelfAttention(width, heads, eps), feed_forward=FeedForward(width, hidden, eps))
            for _ in range(config.depth)
        )
        self.head = Linear(width, codes)

    def forward(self, x_RrC: Tensor, vectors_nrD: Tensor, condition: Condition, rope: Tensor, k: int) -> Tensor:
        """Logits (R, r, V) before guidance.

        Args:
            x_RrC: the trunk's last hidden states.
            vectors_nrD: codebook vectors of the tokens revealed so far, and zeros at the other tokens.
            condition: the rows' condition, of which the text summaries are read.
            rope: cosine and sine of the tokens, (r, P, 2) or (R, r, P, 2).
            k: index of the scale.
        """
        known = expand_rows(self.word(vectors_nrD), len(x_RrC)) + self.level.weight[k]
        text = (self.summary(condition.pooled) + self.start)[:, None]
        h = self.mix(torch.cat([torch.cat([text, known], 1), torch.cat([text, x_RrC.float()], 1)], -1))
        origin = torch.zeros_like(rope[..., :1, :, :])
        origin[..., 0] = 1.0
        rope = torch.cat([origin, rope], -3)
        for layer, block in enumerate(self.blocks):
            h = block(h, BlockContext(layer, condition, rope, F.scaled_dot_product_attention))
        logits: Tensor = self.head(layer_norm(h[:, 1:], self.eps))
        return logits

    def draw(
        self,
        x_RrC: Tensor,
        logits_nrV: Tensor,
        codebook: nn.Embedding,
        rope: Tensor,
        drawing: Drawing,
    ) -> Tensor:
        """Draw the codes (n, r) of a scale.

        The trunk's guidance at scale k is a share k / (S - 1) of the full strength; the second stage uses the full
        strength, recovered here.

        Args:
            x_RrC: the trunk's last hidden states.
            logits_nrV: the trunk's logits, guided and divided by the temperature.
            codebook: vectors of the codes.
            rope: cosine and sine of all tokens of the scale, (M, P, 2).
            drawing: settings and random numbers. Each token has two uniform numbers per round: one draws the token's
                code, the other sets its place in the random order of the first rounds. Codes that are given count as
                revealed from the first round on.
        """
        n, r = logits_nrV.shape[:2]
        k, last, index, settings = drawing.at.k, drawing.at.last, drawing.index, drawing.settings
        full = (len(drawing.at.schedule) - 1) / k
        weights = [1 + (guidance - 1) * full for guidance in drawing.guidance]
        temperatures = [each.temperature or 1.0 for each in settings]
        weights_n11, temperatures_n11 = (
            sent(torch.tensor(each, dtype=torch.float32), x_RrC.device)[:, None, None]
            for each in (weights, temperatures)
        )
        rounds = max(self.config.rounds, self.config.last_rounds)
        noise_nrT2 = torch.stack([drawing.uniforms(i, (rounds, 2), x_RrC.device) for i in range(n)])
        if index is not None:
            rope = rope[index].repeat(len(x_RrC) // n, 1, 1, 1)
        given = torch.full((n, r), -1, device=x_RrC.device) if drawing.known is None else drawing.known
        codes, known = given.clamp(min=0), given >= 0
        for t, size in enumerate(round_sizes(self.config.last_rounds if last else self.config.rounds, r)):
            early = t < self.config.early
            if not early or last:
                vectors = codebook(codes) * known[..., None]
                logits_RrV = self(x_RrC, vectors, drawing.condition, rope, k)
                logits = logits_RrV[:n]
                if len(logits_RrV) > n:
                    logits = logits + (weights_n11 - 1) * (logits - logits_RrV[n:])
                logits = logits / temperatures_n11
            else:
                logits = logits_nrV
            drawn, certainty = _draw(logits, settings, noise_nrT2[:, :, t, 0])
            before = known
            if early and not last:
                known = known | _largest(certainty, size)
            order = noise_nrT2[:, :, t, 1] if early else certainty
            known = known | _largest(order.masked_fill(known, -1.0), size)
            codes = torch.where(before, codes, drawn)
        return codes


def _draw(logits_nrV: Tensor, settings: Sequence[Sampling], uniform_nr: Tensor) -> tuple[Tensor, Tensor]:
    """Draw codes (n, r). The second result (n, r) is each code's probability among the codes that top-k and top-p keep,
    or among all codes if sampling is greedy."""
    codes, certainty = [], []
    for logits, each, uniform in zip(logits_nrV, settings, uniform_nr, strict=True):
        kept = keep_likely(logits, each.top_k, each.top_p)
        greedy = each.temperature == 0 or each.top_k == 1
        codes.append(logits.argmax(-1) if greedy else draw(kept, uniform))
        certainty.append((logits if greedy else kept).softmax(-1).gather(-1, codes[-1][:, None])[:, 0])
    return torch.stack(codes), torch.stack(certainty)


def _largest(score_nr: Tensor, count: int) -> Tensor:
    """True at the ``count`` largest entries of each row."""
    index = score_nr.topk(min(max(count, 0), score_nr.shape[1]), dim=1).indices
    return torch.zeros_like(score_nr, dtype=torch.bool).scatter(1, index, True)
